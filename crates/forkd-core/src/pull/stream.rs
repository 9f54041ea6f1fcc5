//! Versions 1 and 2: one stream, unpacked as it comes and kept until that is done, so that a cut or killed pull goes on where it
//! stopped.

use crate::digest::checked_reader::{CheckedBody, Expected};
use crate::error::{Error, Kind, Result};
use crate::hub::remote::{Answer, Location, Request, Validator};
use crate::pack::stream::read::Incoming;
use crate::pull::context::{Pulling, source_of};
use crate::store::partial::Partial;
use crate::unpack::origin::Origin;
use crate::unpack::plan::UnpackReport;
use crate::unpack::unpack;
use forkd_format::Digest;
use forkd_sys::Disk;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const PACK: &str = "pack";

const NOTE: &str = "pack.json";

/// What an earlier run has of a pack.
pub(crate) struct Kept {
    file: File,
    path: PathBuf,
    pub(crate) len: u64,
    pub(crate) validator: Validator,
}

impl Kept {
    pub(crate) fn open(partial: &Partial) -> Result<Self> {
        let (path, file) = partial.file(PACK)?;
        let len = file.metadata().map_err(Error::io("read", &path))?.len();
        let note = std::fs::read(partial.path().join(NOTE)).ok();
        let validator = note.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Ok(Self { file, path, len, validator })
    }

    /// Notes which copy the bytes will be of.
    pub(crate) fn begin(&mut self, pulling: &Pulling<'_>, validator: &Validator) -> Result<()> {
        let disk = pulling.store.disk();
        disk.set_len(&self.file, &self.path, 0).map_err(Error::io("write", &self.path))?;
        let note = self.path.with_file_name(NOTE);
        let text = serde_json::to_vec(validator).map_err(|e| Error::new(Kind::General, e.to_string()))?;
        std::fs::write(&note, text).map_err(Error::io("write", &note))?;
        self.validator = validator.clone();
        self.len = 0;
        Ok(())
    }
}

/// Opens a pack of version 1 or 2, going on behind what is here of it; says of which copy it is.
pub(crate) fn resume<'a>(
    pulling: &Pulling<'a>,
    location: &Location,
    expected: Expected,
    mut kept: Kept,
) -> Result<(Incoming<CheckedBody<'a>>, Validator)> {
    let name = location.to_string();
    // Without a digest or a validator nothing would show that the rest is of another copy.
    let start = if expected.sha256.is_none() && kept.validator.is_empty() { 0 } else { kept.len };
    let complete = start > 0 && expected.size == Some(start);
    let mut body: Box<dyn Read + Send> = Box::new(std::io::empty());
    if !complete {
        // All of it may be here already, and no server gives a range behind the end: the last byte comes again.
        let start = start.saturating_sub(1);
        kept.len = start;
        let only_of = Some(kept.validator.clone()).filter(|_| start > 0);
        let request = Request { start, end: None, only_of, unless: None };
        let download = match pulling.remote.request(location, &request, pulling.env.cancel)? {
            Answer::Part(download) => download,
            Answer::Whole(download) => {
                kept.begin(pulling, &download.validator)?;
                download
            }
            Answer::NotModified => return Err(Error::Changed { location: name }),
        };
        if let (Some(declared), Some(offered)) = (expected.size, download.size)
            && declared != offered
        {
            let message =
                format!("{name}: the server offers {offered} bytes; the registry declares {declared}");
            return Err(Error::new(Kind::Integrity, message));
        }
        body = download.body;
    }
    if kept.len > 0 {
        pulling.env.progress.note(&format!("going on after the {} bytes that are here of {name}", kept.len));
        pulling.env.progress.start("pulling", expected.size);
    }
    let copy = kept.validator.clone();
    let body = Tee::new(pulling, kept, body, Arc::new(AtomicBool::new(true)));
    let body = CheckedBody::new(Box::new(body), &name, expected, pulling.env.progress, pulling.env.cancel);
    Ok((Incoming::open(body, &name, pulling.env)?, copy))
}

/// First the bytes that are here, then those that come, which are kept too.
pub(crate) struct Tee<'a> {
    kept: Kept,
    at: u64,
    body: Box<dyn Read + Send + 'a>,
    disk: Disk,
    moved: crate::pull::context::Moved,
    /// Whether what comes is still kept.
    keeping: Arc<AtomicBool>,
}

impl<'a> Tee<'a> {
    pub(crate) fn new(
        pulling: &Pulling<'_>,
        kept: Kept,
        body: Box<dyn Read + Send + 'a>,
        keeping: Arc<AtomicBool>,
    ) -> Self {
        Self { kept, at: 0, body, disk: pulling.store.disk().clone(), moved: pulling.moved.clone(), keeping }
    }
}

impl Read for Tee<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at < self.kept.len {
            let most = buffer.len().min(usize::try_from(self.kept.len - self.at).unwrap_or(usize::MAX));
            let read = self.kept.file.read_at(&mut buffer[..most], self.at)?;
            self.at += read as u64;
            return Ok(read);
        }
        let read = self.body.read(buffer)?;
        if self.keeping.load(Ordering::Relaxed) {
            let Kept { file, path, .. } = &self.kept;
            let full =
                |source| std::io::Error::other(Error::Io { action: "write", path: path.clone(), source });
            self.disk.write_at(file, path, &buffer[..read], self.at).map_err(full)?;
        }
        self.at += read as u64;
        self.moved.add(read as u64);
        Ok(read)
    }
}

/// Unpacks a stream; gives the digest of the pack too.
pub(crate) fn receive(
    pulling: &Pulling<'_>,
    location: &Location,
    name: &str,
    incoming: Incoming<CheckedBody<'_>>,
    pinned: Option<Digest>,
) -> Result<(UnpackReport, Option<Digest>)> {
    let mut beside = |file: &str| Ok(pulling.remote.get(&location.join(file)?, pulling.env.cancel)?.body);
    let options = &pulling.options.unpack;
    let mut origin = Origin {
        source: source_of(name, pinned),
        sidecar: &mut beside,
        trust_manifest: !options.force && pinned.is_none(),
        count_content: false,
    };
    let mut found = None;
    let check = |body: CheckedBody<'_>| {
        found = Some(body.verify()?.1);
        Ok(found)
    };
    let report = unpack(pulling.store, incoming, options, &mut origin, check, pulling.env)?;
    Ok((report, found))
}
