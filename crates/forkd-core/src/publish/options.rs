use crate::pack::options::PackOptions;
use forkd_format::Reference;

/// What is published, and how.
#[derive(Debug, Clone)]
pub struct PublishOptions {
    /// The snapshot and how it is packed; the bases are earlier versions that hosts may have.
    pub pack: PackOptions,
    pub terms: PublishTerms,
}

/// As what something is published.
#[derive(Debug, Clone)]
pub struct PublishTerms {
    /// `owner/name@version`.
    pub reference: Reference,
    /// Where its recipe lies, for people.
    pub recipe_path: Option<String>,
    /// Whether it becomes the package's `latest`.
    pub latest: bool,
    /// Whether a version that is there may get other bytes.
    pub replace: bool,
    /// Whether it stands beside what the version is for other engines and processors.
    pub variant: bool,
    /// Whether nothing is sent.
    pub dry_run: bool,
}
