use forkd_format::Tag;

/// What goes into a release.
#[derive(Debug, Clone)]
pub struct ReleaseOptions {
    /// The snapshot; with it go its ancestors.
    pub tag: Tag,
    /// For people; where none is given, what the snapshot came with.
    pub description: Option<String>,
    /// The container image behind the rootfs; where none is given, what the snapshot came with.
    pub base_image: Option<String>,
    /// zstd's level, 1 to 22; where none is given, what was made at any level is taken.
    pub level: Option<i32>,
    /// Other snapshots of the store whose files frames may refer to; what they refer to goes along.
    pub bases: Vec<Tag>,
    /// Whether a tag that is there may get another release.
    pub replace: bool,
    /// Whether what the tag names for other engines and processors stays beside it.
    pub variant: bool,
}
