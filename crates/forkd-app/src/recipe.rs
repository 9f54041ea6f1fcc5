//! A recipe as it lies in a folder (`docs/recipes.md`).

use forkd_core::{Error, Kind, Result};
use forkd_format::Recipe;
use forkd_format::recipe::RECIPE;
use forkd_image::ExtraFile;
use std::path::Path;

/// The largest file of a recipe, in bytes.
const MAX_FILE: u64 = 64 << 20;

/// A recipe and the bytes of its files.
#[derive(Debug)]
pub struct RecipeFolder {
    /// The folder's name.
    pub name: String,
    /// What `recipe.toml` says.
    pub recipe: Recipe,
    pub(crate) files: Vec<ExtraFile>,
}

impl RecipeFolder {
    /// Reads a folder, and what the recipe takes from those beside it.
    ///
    /// # Errors
    /// [`Kind::NotFound`]; [`Kind::Usage`] where it breaks a rule.
    pub fn read(folder: &Path) -> Result<Self> {
        let folder = folder.canonicalize().map_err(Error::io("open", folder))?;
        let path = folder.join(RECIPE);
        let wrong = |e: String| Error::new(Kind::Usage, format!("{}: {e}", path.display()));
        let text = String::from_utf8(read_file(&path, Recipe::MAX_LEN)?).map_err(|e| wrong(e.to_string()))?;
        let recipe = Recipe::parse(&text).map_err(|e| wrong(e.to_string()))?;
        // What several recipes need lies beside them; a link must not lead out of there.
        let around = folder.parent().unwrap_or(&folder);
        let mut files = Vec::new();
        for file in &recipe.files {
            let contents = match (&file.content, &file.from) {
                (Some(text), _) => text.clone().into_bytes(),
                (None, from) => {
                    let path = folder.join(from.as_deref().unwrap_or_default());
                    let real = path.canonicalize().map_err(Error::io("open", &path))?;
                    if !real.starts_with(around) {
                        let message = format!("{} leads out of {}", path.display(), around.display());
                        return Err(Error::new(Kind::Usage, message));
                    }
                    read_file(&real, MAX_FILE)?
                }
            };
            let mode = file.mode().map_err(|e| Error::new(Kind::Usage, e))?;
            files.push(ExtraFile { path: file.to.clone(), mode, contents });
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, recipe, files })
    }
}

fn read_file(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let found = path.metadata().map_err(Error::io("open", path))?;
    if !found.is_file() || found.len() > limit {
        let message = format!("{}: expected a file of at most {limit} bytes", path.display());
        return Err(Error::new(Kind::Usage, message));
    }
    std::fs::read(path).map_err(Error::io("read", path))
}
