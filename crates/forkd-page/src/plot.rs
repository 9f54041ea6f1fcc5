//! The sizes of a package's versions as bars.

use crate::facts::mib;
use forkd_format::registry::VersionDetails;
use serde::Serialize;

/// Versions that are drawn, the last ones.
const BARS: usize = 12;
const WIDTH: f64 = 640.0;
const HEIGHT: f64 = 180.0;
/// Room for the values above the bars and the names below.
const ABOVE: f64 = 20.0;
const BELOW: f64 = 24.0;

/// A picture, in its own units.
#[derive(Debug, Serialize)]
pub(crate) struct Plot {
    width: f64,
    height: f64,
    label_y: f64,
    /// The same in words.
    words: String,
    bars: Vec<Bar>,
}

#[derive(Debug, Serialize)]
struct Bar {
    name: String,
    size: String,
    x: String,
    y: String,
    width: String,
    height: String,
    middle: String,
    value_y: String,
    update: bool,
    update_y: String,
    update_height: String,
}

impl Plot {
    /// Of versions with sizes, `latest` left out; `None` where there are not at least two.
    pub(crate) fn of(versions: &[VersionDetails]) -> Option<Self> {
        let sized =
            |version: &VersionDetails| Some((version.version.clone(), version.smallest()?, version.update()));
        let mut all: Vec<(String, u64, Option<u64>)> =
            versions.iter().filter(|version| version.version != "latest").filter_map(sized).collect();
        if all.len() < 2 {
            return None;
        }
        all.drain(..all.len().saturating_sub(BARS));
        let most = all.iter().map(|(_, size, _)| *size).max().unwrap_or(1).max(1) as f64;
        let step = WIDTH / all.len() as f64;
        let room = HEIGHT - ABOVE - BELOW;
        let number = |value: f64| format!("{value:.1}");
        let words: Vec<String> = all.iter().map(|(name, size, _)| format!("{name} {}", mib(*size))).collect();
        let bars = all.into_iter().enumerate().map(|(at, (name, size, update))| {
            let height = (size as f64 / most * room).max(1.0);
            let update_height = update.map_or(0.0, |update| (update as f64 / most * room).clamp(1.0, room));
            let (x, width) = (at as f64 * step + step * 0.15, step * 0.7);
            let top = ABOVE + room - height;
            Bar {
                name: name.chars().take(12).collect(),
                size: mib(size),
                x: number(x),
                y: number(top),
                width: number(width),
                height: number(height),
                middle: number(x + width / 2.0),
                value_y: number(top - 5.0),
                update: update.is_some(),
                update_y: number(ABOVE + room - update_height),
                update_height: number(update_height),
            }
        });
        let bars = bars.collect();
        Some(Self {
            width: WIDTH,
            height: HEIGHT,
            label_y: HEIGHT - 8.0,
            words: format!("Packed size of each version: {}", words.join(", ")),
            bars,
        })
    }
}
