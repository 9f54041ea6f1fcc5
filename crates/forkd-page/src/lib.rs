//! A hub's catalogue as a static site: a list that can be searched and a page for each package. What publishers wrote is text on it, never markup: templates
//! escape it, scripts set it as text, and pages that browsers are given allow no script but the site's own.
#![forbid(unsafe_code)]

mod facts;
mod plot;

use facts::{Fact, created, mib, short};
use forkd_format::Reference;
use forkd_format::registry::{PackageDetails, VersionDetails, engine_words};
pub use minijinja::Error as TemplateError;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment};
use plot::Plot;
use serde::Serialize;
use serde_json::Value;

/// Rows of the list that are there without scripts, and at most at a time with them.
const SHOWN: usize = 200;

const STATIC: [(&str, &str); 3] = [
    ("style.css", include_str!("../templates/style.css")),
    ("list.js", include_str!("../templates/list.js")),
    ("copy.js", include_str!("../templates/copy.js")),
];

/// What the site says of itself.
#[derive(Debug, Clone)]
pub struct SiteOptions {
    pub title: String,
    /// What `--hub` is in the command lines that visitors copy; `None` for none.
    pub hub: Option<String>,
    /// When it was made, for people; `None` for sites that are the same whenever they are made.
    pub made: Option<String>,
}

/// A file of the site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteFile {
    /// Relative, with slashes; no part of it is a publisher's but names that references can spell.
    pub path: String,
    pub text: String,
}

/// What all pages have.
#[derive(Serialize)]
struct Frame<'a> {
    /// From the page to the site's root.
    root: &'static str,
    title: &'a str,
    version: &'static str,
    made: Option<&'a str>,
}

#[derive(Serialize)]
struct IndexPage<'a> {
    #[serde(flatten)]
    frame: Frame<'a>,
    total: usize,
    shown: usize,
    packages: &'a [Row<'a>],
}

#[derive(Serialize)]
struct PackagePage<'a> {
    #[serde(flatten)]
    frame: Frame<'a>,
    name: &'a str,
    description: &'a str,
    pull: String,
    latest: Option<LatestVersion<'a>>,
    chain: &'a [String],
    versions: Vec<VersionRow<'a>>,
    plot: Option<Plot>,
}

#[derive(Serialize)]
struct LatestVersion<'a> {
    /// Its name beside `latest`.
    name: Option<&'a str>,
    facts: Vec<Fact>,
}

/// A row of the list.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    description: &'a str,
    facts: String,
    href: Option<String>,
}

/// A row of the table of versions.
#[derive(Serialize)]
struct VersionRow<'a> {
    name: &'a str,
    size: String,
    update: String,
    memory: String,
    created: String,
    digest: String,
    fault: Option<&'a str>,
}

/// Makes the site.
///
/// # Errors
/// Where a template does not hold; what is in `packages` makes none fail.
pub fn site(packages: &[PackageDetails], options: &SiteOptions) -> Result<Vec<SiteFile>, TemplateError> {
    let mut templates = Environment::new();
    templates.set_auto_escape_callback(|_| AutoEscape::Html);
    templates.add_template("base.html", include_str!("../templates/base.html"))?;
    templates.add_template("index.html", include_str!("../templates/index.html"))?;
    templates.add_template("package.html", include_str!("../templates/package.html"))?;
    let rows: Vec<Row<'_>> = packages.iter().map(row).collect();
    let mut files: Vec<SiteFile> =
        STATIC.iter().map(|(path, text)| SiteFile { path: (*path).into(), text: (*text).into() }).collect();
    files.push(SiteFile { path: "packages.js".into(), text: as_script(&rows) });
    let frame = |root: &'static str| Frame {
        root,
        title: &options.title,
        version: env!("CARGO_PKG_VERSION"),
        made: options.made.as_deref(),
    };
    let shown = rows.len().min(SHOWN);
    let page = IndexPage { frame: frame(""), total: rows.len(), shown, packages: &rows[..shown] };
    let text = templates.get_template("index.html")?.render(Serde(&page))?;
    files.push(SiteFile { path: "index.html".into(), text });
    let template = templates.get_template("package.html")?;
    for package in packages {
        let Some(path) = page_path(&package.name) else { continue };
        let latest = package.latest();
        let page = PackagePage {
            frame: frame("../../"),
            name: &package.name,
            description: package.description.as_deref().unwrap_or_default(),
            pull: pull_line(&package.name, options),
            latest: latest
                .map(|version| LatestVersion { name: package.own_name(version), facts: facts_of(version) }),
            chain: latest.map(|version| version.chain.as_slice()).unwrap_or_default(),
            versions: package.versions.iter().map(version_row).collect(),
            plot: Plot::of(&package.versions),
        };
        files.push(SiteFile { path, text: template.render(Serde(&page))? });
    }
    Ok(files)
}

/// Where a package's page lies; none for a name that no reference can spell: it could name anything.
fn page_path(name: &str) -> Option<String> {
    let reference: Reference = name.parse().ok()?;
    (reference.package == name).then(|| format!("p/{name}.html"))
}

fn pull_line(name: &str, options: &SiteOptions) -> String {
    match &options.hub {
        Some(hub) => format!("forkd pull {name} --hub {hub}"),
        None => format!("forkd pull {name}"),
    }
}

fn row(package: &PackageDetails) -> Row<'_> {
    let mut words = Vec::new();
    if let Some(latest) = package.latest() {
        words.extend(package.own_name(latest).map(str::to_owned));
        words.extend(latest.smallest().map(mib));
        words.extend(latest.memory_mib.map(|memory| format!("{memory} MiB of memory")));
        words.extend(latest.created_at.as_deref().map(created));
    }
    Row {
        name: &package.name,
        description: package.description.as_deref().unwrap_or_default(),
        facts: words.join(" · "),
        href: page_path(&package.name),
    }
}

fn facts_of(version: &VersionDetails) -> Vec<Fact> {
    let mut facts = Vec::new();
    let mut add = |name: &'static str, value: Option<String>, code: bool| {
        facts.extend(value.map(|value| Fact { name, value, code }));
    };
    add("Packed size", version.smallest().map(mib), false);
    add("As an update", version.update().map(mib), false);
    add(
        "For every host",
        version.pack.as_ref().map(|pack| format!("{} in one stream", mib(pack.size_bytes))),
        false,
    );
    add("Memory", version.memory_mib.map(|memory| format!("{memory} MiB")), false);
    add("Base image", version.base_image.clone(), true);
    add("Created", version.created_at.as_deref().map(created), false);
    add("Recipe", version.recipe_path.clone(), true);
    add("Needs", version.engine.as_ref().map(engine_words), false);
    for variant in &version.variants {
        add("Or", Some(engine_words(&Value::Object(variant.engine.clone()))), false);
    }
    add("Digest", version.pack.as_ref().map(|pack| format!("sha256:{}", pack.sha256)), true);
    add("Release", version.release.as_ref().map(|release| format!("sha256:{}", release.digest)), true);
    add("Signed", Some("no".to_owned()), false);
    facts
}

fn version_row(version: &VersionDetails) -> VersionRow<'_> {
    let dash = || "–".to_owned();
    let digest = version.pack.as_ref().map(|pack| pack.sha256).or(version.release.as_ref().map(|r| r.digest));
    VersionRow {
        name: &version.version,
        size: version.smallest().map_or_else(dash, mib),
        update: version.update().map_or_else(dash, mib),
        memory: version.memory_mib.map_or_else(dash, |memory| format!("{memory} MiB")),
        created: version.created_at.as_deref().map_or_else(dash, created),
        digest: digest.map_or_else(dash, |digest| short(&digest)),
        fault: version.fault.as_deref(),
    }
}

/// Rows as a script that says nothing else, whatever is in them.
fn as_script(rows: &[Row<'_>]) -> String {
    let json = serde_json::to_string(rows).unwrap_or_else(|_| "[]".to_owned());
    let json = json.replace('<', "\\u003c").replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    format!("window.FORKD_PACKAGES = {json};\n")
}

#[cfg(test)]
mod tests;
