//! Stream packs (versions 1 and 2): unpacked as they come and kept until that is done, so that a cut or killed pull goes on where it
//! stopped.

use crate::digest::checked_reader::{CheckedBody, Expected};
use crate::error::{Error, Kind, Result};
use crate::hub::offer::{Claim, Offer};
use crate::hub::remote::{Answer, Request, Validator};
use crate::pack::computed_id::ComputedId;
use crate::pack::stream::read::PackStream;
use crate::pull::context::{PACK, PullContext, Traffic};
use crate::store::record::Provenance;
use crate::store::workdir::WorkDir;
use crate::unpack::job::PackOrigin;
use crate::unpack::plan::UnpackReport;
use crate::unpack::unpack;
use forkd_sys::DiskIo;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const NOTE: &str = "pack.json";

/// What a server says of a copy is no longer, in bytes.
const MAX_NOTE: u64 = 64 << 10;

/// What an earlier run has of a pack: its bytes from its beginning, and of which copy they are.
pub(crate) struct PartialPack {
    file: File,
    path: PathBuf,
    note: (PathBuf, File),
    pub(crate) len: u64,
    pub(crate) validator: Validator,
}

impl PartialPack {
    pub(crate) fn open(download: &WorkDir) -> Result<Self> {
        let (path, file) = download.file(PACK)?;
        let len = file.metadata().map_err(Error::io("read", &path))?.len();
        let mut note = download.file(NOTE)?;
        let mut text = String::new();
        let read = (&mut note.1).take(MAX_NOTE).read_to_string(&mut text).ok();
        let validator = read.and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default();
        Ok(Self { file, path, note, len, validator })
    }

    /// Notes which copy the bytes will be of.
    pub(crate) fn begin(&mut self, disk: &DiskIo, validator: &Validator) -> Result<()> {
        disk.set_len(&self.file, &self.path, 0).map_err(Error::io("write", &self.path))?;
        let (path, file) = &self.note;
        let text = serde_json::to_vec(validator).map_err(|e| Error::new(Kind::General, e.to_string()))?;
        let written = disk.set_len(file, path, 0).and_then(|()| disk.write_at(file, path, &text, 0));
        written.map_err(Error::io("write", path))?;
        self.validator = validator.clone();
        self.len = 0;
        Ok(())
    }
}

/// A stream pack, from where it was opened on.
pub(crate) struct OpenStream<'a> {
    pub(crate) stream: PackStream<CheckedBody<'a>>,
    /// Which copy it is.
    pub(crate) validator: Validator,
    /// In bytes, where that is known.
    pub(crate) size: Option<u64>,
    /// Bytes of it that an earlier run brought; none of another copy.
    pub(crate) resumed: u64,
}

/// Opens a stream pack behind what is here of it, if anything.
pub(crate) fn open<'a>(
    context: &PullContext<'a>,
    offer: &Offer,
    mut kept: PartialPack,
) -> Result<OpenStream<'a>> {
    let (location, name) = (&offer.location, offer.location.to_string());
    let expected = Expected { sha256: offer.claim.file(), size: offer.size };
    // Without a digest or a validator nothing would show that the rest is of another copy.
    let start = if expected.sha256.is_none() && kept.validator.is_empty() { 0 } else { kept.len };
    let complete = start > 0 && expected.size == Some(start);
    let mut body: Box<dyn Read + Send> = Box::new(std::io::empty());
    let mut size = expected.size;
    if !complete {
        // All of it may be here already, and no server gives a range behind the end: the last byte comes again.
        let start = start.saturating_sub(1);
        kept.len = start;
        let only_of = Some(kept.validator.clone()).filter(|_| start > 0);
        let request = Request { start, only_of, ..Request::default() };
        let download = match context.remote.request(location, &request, context.env.cancel)? {
            Answer::Part(download) => download,
            Answer::Whole(download) => {
                kept.begin(context.store.disk(), &download.validator)?;
                download
            }
            Answer::NotModified => return Err(Error::Changed { location: name }),
        };
        offer.check_size(download.size)?;
        (body, size) = (download.body, size.or(download.size));
    }
    if kept.len > 0 {
        context.env.progress.note(&format!("going on after the {} bytes that are here of {name}", kept.len));
        context.env.progress.start("pulling", size);
        context.env.progress.resume(kept.len);
    }
    let (validator, resumed) = (kept.validator.clone(), kept.len);
    let body = TeeReader::new(context, kept, body, Arc::new(AtomicBool::new(true)));
    let body = CheckedBody::new(Box::new(body), &name, expected, context.env.progress, context.env.cancel);
    Ok(OpenStream { stream: PackStream::open(body, &name, context.env)?, validator, size, resumed })
}

/// First the bytes that are here, then those that come, which are kept too.
pub(crate) struct TeeReader<'a> {
    kept: PartialPack,
    at: u64,
    body: Box<dyn Read + Send + 'a>,
    disk: DiskIo,
    traffic: Traffic,
    /// Whether what comes is still kept.
    keeping: Arc<AtomicBool>,
}

impl<'a> TeeReader<'a> {
    pub(crate) fn new(
        context: &PullContext<'_>,
        kept: PartialPack,
        body: Box<dyn Read + Send + 'a>,
        keeping: Arc<AtomicBool>,
    ) -> Self {
        Self {
            kept,
            at: 0,
            body,
            disk: context.store.disk().clone(),
            traffic: context.traffic.clone(),
            keeping,
        }
    }
}

impl Read for TeeReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at < self.kept.len {
            let most = buffer.len().min(usize::try_from(self.kept.len - self.at).unwrap_or(usize::MAX));
            let read = self.kept.file.read_at(&mut buffer[..most], self.at)?;
            self.at += read as u64;
            return Ok(read);
        }
        let read = self.body.read(buffer)?;
        if self.keeping.load(Ordering::Relaxed) {
            let PartialPack { file, path, .. } = &self.kept;
            let full =
                |source| std::io::Error::other(Error::Io { action: "write", path: path.clone(), source });
            self.disk.write_at(file, path, &buffer[..read], self.at).map_err(full)?;
        }
        self.at += read as u64;
        self.traffic.add(read as u64);
        Ok(read)
    }
}

/// Unpacks a stream; gives what names the pack too, where all of it was read.
pub(crate) fn receive(
    context: &PullContext<'_>,
    offer: &Offer,
    name: &str,
    stream: PackStream<CheckedBody<'_>>,
) -> Result<(UnpackReport, Option<ComputedId>)> {
    let PullContext { store, remote, options, env, .. } = *context;
    let mut sidecar = |file: &str| Ok(remote.get(&offer.location.join(file)?, env.cancel)?.body);
    let origin = PackOrigin {
        provenance: Provenance { name: name.to_owned(), head: None, id: None },
        sidecar: &mut sidecar,
        trust_manifest: !options.unpack.force && offer.claim == Claim::Nothing,
    };
    let mut found = None;
    let check = |body: CheckedBody<'_>| {
        let id = body.verify()?;
        offer.check(id)?;
        found = Some(id);
        Ok(found)
    };
    let report = unpack((store, &options.unpack, env), stream, origin, false, check)?;
    Ok((report, found))
}
