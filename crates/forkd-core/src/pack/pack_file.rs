use crate::error::{Error, Kind, Result};
use std::fs::File;
use std::path::Path;

/// Opens a pack file; anything else (a pipe would never open) is refused.
pub(crate) fn open_pack(file: &Path) -> Result<File> {
    if !file.metadata().map_err(Error::io("open", file))?.is_file() {
        return Err(Error::new(
            Kind::Usage,
            format!("{} is not a regular file; expected a pack", file.display()),
        ));
    }
    File::open(file).map_err(Error::io("open", file))
}
