//! Version 3 packs written by hand, with no code of forkd's, in parts that may each be made to lie.

use crate::packs::{TarEntry, digest, tar_of};
use zstd::zstd_safe::{CCtx, CParameter, compress_bound};

/// A run of a frame's pages, by where they come from.
#[derive(Debug, Clone, Copy)]
pub enum PlanRun {
    /// So many pages of zeros.
    Zero(u64),
    /// So many pages of the zstd part.
    Data(u64),
    /// Pages of a source: how many, the source, its first page.
    Copy(u64, u64, u64),
}

/// A frame of a version 3 pack.
#[derive(Debug, Clone)]
pub struct FrameParts {
    /// What the index says that it decodes to.
    pub content: Vec<u8>,
    /// What the index says that this has for a checksum.
    pub sum: u64,
    /// Its bytes in the pack, header included.
    pub bytes: Vec<u8>,
    /// What the index says that it needs: places in the pack, ascending.
    pub needs: Vec<u64>,
}

impl FrameParts {
    /// A frame with this plan and zstd part.
    #[must_use]
    pub fn of(content: &[u8], plan: &[u8], zstd: &[u8]) -> Self {
        let mut bytes = 0x184D_2A5C_u32.to_le_bytes().to_vec();
        bytes.extend(((plan.len() + zstd.len()) as u32).to_le_bytes());
        bytes.extend(plan);
        bytes.extend(zstd);
        Self { content: content.to_vec(), sum: xxhash_rust::xxh3::xxh3_64(content), bytes, needs: Vec::new() }
    }

    /// The same, with what it needs.
    #[must_use]
    pub fn needing(self, needs: &[u64]) -> Self {
        Self { needs: needs.to_vec(), ..self }
    }

    /// The frame that keeps every page as it is.
    #[must_use]
    pub fn plain(content: &[u8]) -> Self {
        let pages: Vec<&[u8]> = content.chunks(4096).collect();
        let runs: Vec<PlanRun> =
            pages
                .chunk_by(|a, b| zero(a) == zero(b))
                .map(|run| {
                    if zero(run[0]) {
                        PlanRun::Zero(run.len() as u64)
                    } else {
                        PlanRun::Data(run.len() as u64)
                    }
                })
                .collect();
        let kept: Vec<u8> = pages.into_iter().filter(|page| !zero(page)).collect::<Vec<_>>().concat();
        Self::of(content, &plan(&[], &runs), &zstd_part(&kept))
    }
}

fn zero(page: &[u8]) -> bool {
    page.iter().all(|byte| *byte == 0)
}

/// A zstd frame that says how long its content is; nothing where there is none.
#[must_use]
pub fn zstd_part(content: &[u8]) -> Vec<u8> {
    if content.is_empty() { Vec::new() } else { zstd::bulk::compress(content, 3).unwrap() }
}

/// A zstd frame that refers to bytes that stand before its content.
#[must_use]
pub fn zstd_part_after(prefix: &[u8], content: &[u8]) -> Vec<u8> {
    let mut context = CCtx::create();
    context.set_parameter(CParameter::WindowLog(23)).unwrap();
    context.ref_prefix(prefix).unwrap();
    let mut out = vec![0; compress_bound(content.len())];
    let len = context.compress2(&mut out[..], content).unwrap();
    out.truncate(len);
    out
}

/// A number as plans have it: unsigned LEB128.
#[must_use]
pub fn leb(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 128 {
        out.push((value & 127) as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// A frame's plan: pages of sources that make its prefix (how many, source, first page), and its runs.
#[must_use]
pub fn plan(prefix: &[(u64, u64, u64)], runs: &[PlanRun]) -> Vec<u8> {
    let mut body = leb(prefix.len() as u64);
    let refer = |body: &mut Vec<u8>, last: &mut (u64, u64), count: u64, source: u64, page: u64| {
        let base = if last.0 == source { last.1 } else { 0 };
        let distance = page.wrapping_sub(base) as i64;
        body.extend(leb(source));
        body.extend(leb(distance.wrapping_mul(2) as u64 ^ (distance >> 63) as u64));
        *last = (source, page.wrapping_add(count));
    };
    let mut last = (0, 0);
    for (count, source, page) in prefix {
        body.extend(leb(*count));
        refer(&mut body, &mut last, *count, *source, *page);
    }
    let mut last = (0, 0);
    for run in runs {
        match run {
            PlanRun::Zero(count) => body.extend(leb(count * 4)),
            PlanRun::Data(count) => body.extend(leb(count * 4 + 1)),
            PlanRun::Copy(count, source, page) => {
                body.extend(leb(count * 4 + 2));
                refer(&mut body, &mut last, *count, *source, *page);
            }
        }
    }
    [leb(body.len() as u64), body].concat()
}

/// A file of a version 3 pack: its frames, `None` where one is all zero.
#[derive(Debug, Clone)]
pub struct FileParts {
    /// Its name in the link, such as `memory.bin`.
    pub path: String,
    /// Bytes of the file, zeros included.
    pub size: u64,
    /// What the manifest says of it, lower-case hexadecimal.
    pub sha256: String,
    /// One for each MiB.
    pub frames: Vec<Option<FrameParts>>,
}

impl FileParts {
    /// A file whose frames keep every page as it is.
    #[must_use]
    pub fn plain(path: &str, content: &[u8]) -> Self {
        let frames = content.chunks(1 << 20).map(|frame| (!zero(frame)).then(|| FrameParts::plain(frame)));
        Self {
            path: path.into(),
            size: content.len() as u64,
            sha256: digest(content),
            frames: frames.collect(),
        }
    }

    fn hashes(&self) -> Vec<[u8; 32]> {
        let len = |n: usize| (self.size - ((n as u64) << 20)).min(1 << 20) as usize;
        let hash = |(n, frame): (usize, &Option<FrameParts>)| {
            let content = frame.as_ref().map_or(&[][..], |frame| &frame.content);
            frame_hash(len(n), content)
        };
        self.frames.iter().enumerate().map(hash).collect()
    }

    /// The root that its frames make, computed anew; lower-case hexadecimal.
    #[must_use]
    pub fn root(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.hashes().concat());
        hasher.update(&self.size.to_le_bytes());
        hasher.finalize().to_string()
    }
}

/// The hash of a frame of so many bytes; what is not in `content` is zero.
fn frame_hash(len: usize, content: &[u8]) -> [u8; 32] {
    let mut bitmap = vec![0_u8; len.div_ceil(4096).div_ceil(8)];
    let mut kept = Vec::new();
    for (n, page) in content.chunks(4096).enumerate().filter(|(_, page)| !zero(page)) {
        bitmap[n / 8] |= 1 << (n % 8);
        kept.extend_from_slice(page);
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(len as u32).to_le_bytes()).update(&bitmap).update(&kept);
    hasher.finalize().into()
}

/// A version 3 pack of one snapshot, in parts that may each be made to lie.
#[derive(Debug, Clone)]
pub struct PackParts {
    /// The manifest up to its files.
    pub top: String,
    /// What follows the files: bases.
    pub bases: String,
    /// The pages of the working set: file, first page, how many.
    pub set_runs: Vec<(u64, u64, u64)>,
    /// These pages, joined, as a file.
    pub set: FileParts,
    /// Its files, descriptions first.
    pub files: Vec<FileParts>,
    /// What follows the frames: the end of the tar stream, compressed.
    pub end: Vec<u8>,
    /// Bytes of padding behind the index.
    pub padding: Vec<u8>,
}

impl PackParts {
    /// A pack of a snapshot `t` whose vmstate and memory are these frames' files.
    #[must_use]
    pub fn new(vmstate: FileParts, memory: FileParts) -> Self {
        let json = br#"{"vmstate":"/h/v","memory":"/h/m","volumes":[]}"#;
        Self {
            top: "forkd_pack_version = 3\ntag = \"t\"\nfiles = []\n".into(),
            bases: String::new(),
            set_runs: Vec::new(),
            set: FileParts::plain("", b""),
            files: vec![FileParts::plain("snapshot.json", json), vmstate, memory],
            end: zstd::bulk::compress(&[0; 1024], 3).unwrap(),
            padding: vec![0; 8],
        }
    }

    /// Stored frames in their order.
    fn frames(&self) -> impl Iterator<Item = &FrameParts> {
        std::iter::once(&self.set).chain(&self.files).flat_map(|file| file.frames.iter().flatten())
    }

    /// The index, given where the first frame begins.
    #[must_use]
    pub fn index(&self, head_len: u64) -> Vec<u8> {
        let stored: Vec<&FrameParts> = self.frames().collect();
        let data: u64 = stored.iter().map(|frame| frame.bytes.len() as u64).sum();
        let mut out = b"forkdix3".to_vec();
        out.extend([72, 0, 0, 0, 2, 0, 0, 0]);
        out.extend([0; 16]);
        out.extend(head_len.to_le_bytes());
        out.extend(data.to_le_bytes());
        for number in [self.files.len() as u32, stored.len() as u32, 4096, 1 << 20] {
            out.extend(number.to_le_bytes());
        }
        let (mut map, mut next) = (Vec::new(), 0_u64);
        for (file, page, count) in &self.set_runs {
            let distance = page.wrapping_sub(next) as i64;
            map.extend(leb(*file));
            map.extend(leb(distance.wrapping_mul(2) as u64 ^ (distance >> 63) as u64));
            map.extend(leb(*count));
            next = page.wrapping_add(*count);
        }
        out.extend(((self.set.size / 4096) as u32).to_le_bytes());
        out.extend((map.len() as u32).to_le_bytes());
        out.extend(map);
        let mut place = 0;
        for file in std::iter::once(&self.set).chain(&self.files) {
            let mut bitmap = vec![0_u8; file.frames.len().div_ceil(8)];
            let stored = file.frames.iter().enumerate().filter(|(_, frame)| frame.is_some());
            stored.for_each(|(n, _)| bitmap[n / 8] |= 1 << (n % 8));
            out.extend(bitmap);
            for (hash, frame) in file.hashes().iter().zip(&file.frames) {
                let Some(frame) = frame else { continue };
                out.extend(hash);
                out.extend(frame.sum.to_le_bytes());
                out.extend((frame.bytes.len() as u32).to_le_bytes());
                out.extend(leb(frame.needs.len() as u64));
                let mut last = place;
                for need in frame.needs.iter().rev() {
                    out.extend(leb(last - need));
                    last = *need;
                }
                place += 1;
            }
        }
        out
    }

    /// The manifest's text, given the index whose digest it names.
    #[must_use]
    pub fn manifest(&self, index: &[u8]) -> String {
        let mut text = format!(
            "{}\n[index]\nsize = {}\nsha256 = \"{}\"\n\n[[chain]]\ntag = \"t\"\n",
            self.top,
            index.len(),
            digest(index)
        );
        for file in &self.files {
            text += &format!(
                "\n[[chain.files]]\npath = \"{}\"\nsize = {}\nsha256 = \"{}\"\nroot = \"{}\"\n",
                file.path,
                file.size,
                file.sha256,
                file.root()
            );
        }
        text + &self.bases
    }

    /// The whole pack, its index and manifest edited.
    #[must_use]
    pub fn edited(
        &self,
        index: impl Fn(&mut Vec<u8>),
        manifest: impl Fn(String) -> String,
        header: impl Fn(&mut [u8; 8]),
    ) -> Vec<u8> {
        let make = |head_len: u64| {
            let mut bytes = self.index(head_len);
            index(&mut bytes);
            let text = manifest(self.manifest(&bytes));
            let mut tar = tar_of(&[TarEntry::file("manifest.toml", text.as_bytes())]);
            tar.truncate(tar.len() - 1024);
            // A raw block: its length depends on no digest.
            let mut out = raw_frame(&tar);
            let mut frame = [0; 8];
            frame[..4].copy_from_slice(&0x184D_2A5B_u32.to_le_bytes());
            frame[4..].copy_from_slice(&((bytes.len() + self.padding.len()) as u32).to_le_bytes());
            header(&mut frame);
            out.extend(frame);
            out.extend(bytes);
            out.extend(&self.padding);
            out
        };
        let mut out = make(make(0).len() as u64);
        self.frames().for_each(|frame| out.extend(&frame.bytes));
        out.extend(&self.end);
        out
    }

    /// The whole pack, as it should be.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.edited(|_| {}, |text| text, |_| {})
    }
}

/// A zstd frame of raw blocks, which says how long its content is.
fn raw_frame(bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![0x28, 0xB5, 0x2F, 0xFD, 0xA0];
    out.extend((bytes.len() as u32).to_le_bytes());
    let mut blocks = bytes.chunks(100_000).peekable();
    while let Some(block) = blocks.next() {
        let header = (block.len() as u32) << 3 | u32::from(blocks.peek().is_none());
        out.extend(&header.to_le_bytes()[..3]);
        out.extend(block);
    }
    out
}
