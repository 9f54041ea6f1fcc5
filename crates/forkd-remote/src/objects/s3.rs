//! Objects in a bucket of an S3-compatible store. `object_store` signs, lists and deletes; bytes that count come and go over the same HTTP
//! as from any web server, by presigned URLs.

use super::port::{ObjectInfo, Objects};
use super::profile::AwsSettings;
use forkd_core::hub::Location;
use forkd_core::{Cancel, Error, Kind, Progress, Result};
use forkd_http::{HttpClient, HttpOptions};
use futures_util::future::{Either, select};
use futures_util::{StreamExt, pin_mut};
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey};
use object_store::path::Path as Key;
use object_store::signer::Signer;
use object_store::{ClientOptions, ObjectMeta, ObjectStore, ObjectStoreExt, RetryConfig};
use reqwest::Method;
use std::future::Future;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;
use tokio::runtime::Runtime;
use url::Url;

/// How long a URL is good that was signed for a reader or an uploader: longer than any pull takes.
const SIGNED_FOR: Duration = Duration::from_secs(12 * 60 * 60);

/// Where a machine of a cloud finds its own role.
const METADATA: ([u8; 4], u16) = ([169, 254, 169, 254], 80);

/// A bucket and a prefix in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketPlace {
    pub bucket: String,
    /// Without slashes around it; may be empty.
    pub prefix: String,
}

/// Objects of a bucket.
pub struct S3Objects {
    place: BucketPlace,
    store: AmazonS3,
    http: HttpClient,
    runtime: Runtime,
    /// Whether requests are signed: not where nothing says who we are, and the bucket may be read by everybody.
    signs: bool,
    /// Where the bucket's objects lie, for those who sign nothing.
    public: Url,
}

impl std::fmt::Debug for S3Objects {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Objects").field("place", &self.place).finish_non_exhaustive()
    }
}

impl S3Objects {
    /// Opens a bucket. No connection is made yet, but to find out whether this is a machine of a cloud, where nothing else says who we are.
    ///
    /// # Errors
    /// [`Kind::Usage`] where the settings make no sense; [`Kind::Unauthorised`] where a profile is missing.
    pub fn open(place: &BucketPlace, aws: &AwsSettings, options: &HttpOptions) -> Result<Self> {
        let variables = aws.resolved()?;
        let get = |name: &str| variables.get(name).filter(|value| !value.is_empty());
        let usage = |why: String| Error::new(Kind::Usage, format!("s3://{}: {why}", place.bucket));
        if options.offline {
            let message = format!("s3://{} was not asked: forkd is offline", place.bucket);
            return Err(
                Error::new(Kind::Transient, message).hint("unset FORKD_OFFLINE, or `offline` in config.toml")
            );
        }
        let endpoint =
            get("AWS_ENDPOINT_URL_S3").or(get("AWS_ENDPOINT_URL")).or(get("AWS_ENDPOINT")).cloned();
        let region =
            get("AWS_REGION").or(get("AWS_DEFAULT_REGION")).cloned().unwrap_or_else(|| "us-east-1".into());
        let mut builder = AmazonS3Builder::new();
        for (name, value) in &variables {
            let known = AmazonS3ConfigKey::from_str(&name.to_ascii_lowercase());
            // Conditional writes and checksums are not needed, and not every store has them.
            if let Ok(key) = known
                && !matches!(key, AmazonS3ConfigKey::Bucket | AmazonS3ConfigKey::Endpoint)
            {
                builder = builder.with_config(key, value);
            }
        }
        builder = builder.with_bucket_name(&place.bucket).with_region(&region);
        let mut plain = false;
        if let Some(endpoint) = &endpoint {
            let url = Url::parse(endpoint).map_err(|e| usage(format!("AWS_ENDPOINT_URL is no URL ({e})")))?;
            plain = url.scheme() == "http";
            builder = builder.with_endpoint(endpoint.trim_end_matches('/'));
        }
        let key = get("AWS_ACCESS_KEY_ID").zip(get("AWS_SECRET_ACCESS_KEY")).is_some();
        let role = [
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ];
        let signs = key
            || role.iter().any(|name| get(name).is_some())
            || (endpoint.is_none() && has_metadata(get("AWS_EC2_METADATA_DISABLED")));
        let retry =
            RetryConfig { max_retries: 3, retry_timeout: Duration::from_secs(30), ..RetryConfig::default() };
        let client = ClientOptions::new()
            .with_allow_http(plain)
            .with_connect_timeout(options.connect_timeout)
            .with_timeout(options.answer_timeout)
            .with_user_agent(reqwest::header::HeaderValue::from_static(concat!(
                "forkd/",
                env!("CARGO_PKG_VERSION")
            )));
        let store = builder
            .with_allow_http(plain)
            .with_skip_signature(!signs)
            .with_retry(retry)
            .with_client_options(client)
            .build()
            .map_err(|e| usage(e.to_string()))?;
        let public = match endpoint {
            Some(endpoint) => format!("{}/{}/", endpoint.trim_end_matches('/'), place.bucket),
            None => format!("https://s3.{region}.amazonaws.com/{}/", place.bucket),
        };
        let public = Url::parse(&public).map_err(|e| usage(e.to_string()))?;
        let setup = |e: std::io::Error| Error::new(Kind::General, format!("cannot set up HTTP: {e}"));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(setup)?;
        // Stores on this machine are not asked for by way of a proxy.
        let direct = matches!(public.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        let http = HttpClient::new(&HttpOptions { direct: direct || options.direct, ..options.clone() })?;
        Ok(Self { place: place.clone(), store, http, runtime, signs, public })
    }

    fn key(&self, key: &str) -> Key {
        if self.place.prefix.is_empty() {
            Key::from(key)
        } else {
            Key::from(format!("{}/{key}", self.place.prefix))
        }
    }

    fn relative(&self, key: &Key) -> Option<String> {
        if self.place.prefix.is_empty() {
            return Some(key.to_string());
        }
        key.as_ref().strip_prefix(&self.place.prefix)?.strip_prefix('/').map(str::to_owned)
    }

    /// Waits for an answer, or for a wish to stop.
    fn wait<T>(&self, cancel: &Cancel, answer: impl Future<Output = object_store::Result<T>>) -> Result<T> {
        self.runtime.block_on(async {
            let stopped = async {
                while !cancel.is_cancelled() {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            pin_mut!(answer, stopped);
            match select(answer, stopped).await {
                Either::Left((answer, _)) => answer.map_err(|e| self.failed(&e)),
                Either::Right(_) => Err(Error::Interrupted),
            }
        })
    }

    /// What the store's answer means.
    fn failed(&self, error: &object_store::Error) -> Error {
        let name = self.name();
        let (kind, words) = match error {
            object_store::Error::NotFound { source, .. } => (Kind::NotFound, source.to_string()),
            object_store::Error::PermissionDenied { source, .. }
            | object_store::Error::Unauthenticated { source, .. } => (Kind::Unauthorised, source.to_string()),
            other => (Kind::Transient, other.to_string()),
        };
        let has = |code: &str| words.contains(code);
        if has("NoSuchBucket") {
            return Error::new(Kind::NotFound, format!("{name}: there is no such bucket"))
                .hint("make it first, or check AWS_ENDPOINT_URL and AWS_REGION");
        }
        if has("RequestTimeTooSkewed") {
            return Error::new(
                Kind::Unauthorised,
                format!("{name}: this host's clock and the store's differ by too much"),
            )
            .hint("set the clock");
        }
        if has("ExpiredToken") || has("TokenRefreshRequired") {
            return Error::new(Kind::Unauthorised, format!("{name}: the credentials have expired"))
                .hint("get new ones");
        }
        if kind == Kind::Unauthorised
            || has("SignatureDoesNotMatch")
            || has("InvalidAccessKeyId")
            || has("AccessDenied")
            || has(" 403")
        {
            let message = if self.signs {
                format!("{name}: the store refuses these credentials, or they lack the right for this")
            } else {
                format!("{name}: the store wants credentials, and there are none")
            };
            return Error::new(Kind::Unauthorised, message)
                .hint("see AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_PROFILE");
        }
        if has("QuotaExceeded") || has("InsufficientStorage") || has("507 Insufficient") {
            return Error::new(Kind::Transient, format!("{name}: the store has no room left"))
                .hint("make room there, or ask for more");
        }
        // Its words may repeat what a server sent.
        let words: String = words.chars().take(300).flat_map(char::escape_debug).collect();
        match kind {
            Kind::NotFound => Error::new(kind, format!("{name}: no such object")),
            kind => Error::new(kind, format!("{name}: {words}")).hint("try again later"),
        }
    }

    fn url(&self, method: Method, key: &str) -> Result<Location> {
        if !self.signs {
            let url = self.public.join(self.key(key).as_ref());
            return Location::of_url(
                &url.map_err(|e| Error::new(Kind::Usage, format!("{}: {e}", self.name())))?,
            );
        }
        let key = self.key(key);
        let signed = self.runtime.block_on(self.store.signed_url(method, &key, SIGNED_FOR));
        Location::of_url(&signed.map_err(|e| self.failed(&e))?)
    }

    fn info(&self, found: &ObjectMeta) -> Option<ObjectInfo> {
        let key = self.relative(&found.location)?;
        Some(ObjectInfo { key, size: found.size, modified: found.last_modified.into() })
    }
}

/// Whether this is a machine of a cloud, which has a role of its own.
fn has_metadata(disabled: Option<&String>) -> bool {
    let (address, port) = METADATA;
    disabled.is_none_or(|disabled| disabled != "true")
        && TcpStream::connect_timeout(&SocketAddr::from((address, port)), Duration::from_secs(1)).is_ok()
}

impl Objects for S3Objects {
    fn name(&self) -> String {
        let BucketPlace { bucket, prefix } = &self.place;
        if prefix.is_empty() { format!("s3://{bucket}") } else { format!("s3://{bucket}/{prefix}") }
    }

    fn location(&self, key: &str) -> Result<Location> {
        self.url(Method::GET, key)
    }

    fn read(&self, key: &str, limit: u64, cancel: &Cancel) -> Result<Option<Vec<u8>>> {
        let path = self.key(key);
        let found = self.wait(cancel, async {
            match self.store.get(&path).await {
                Err(object_store::Error::NotFound { source, path })
                    if !source.to_string().contains("NoSuchBucket") =>
                {
                    drop((source, path));
                    Ok(None)
                }
                found => {
                    let found = found?;
                    let size = found.meta.size;
                    if size > limit {
                        Ok(Some((size, None)))
                    } else {
                        Ok(Some((size, Some(found.bytes().await?))))
                    }
                }
            }
        })?;
        match found {
            None => Ok(None),
            Some((_, Some(bytes))) => Ok(Some(bytes.to_vec())),
            Some((size, None)) => {
                let message = format!("{}/{key}: {size} bytes; at most {limit} are read", self.name());
                Err(Error::new(Kind::Integrity, message))
            }
        }
    }

    fn head(&self, key: &str, cancel: &Cancel) -> Result<Option<ObjectInfo>> {
        let path = self.key(key);
        match self.wait(cancel, self.store.head(&path)) {
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            found => Ok(self.info(&found?)),
        }
    }

    fn put(&self, key: &str, bytes: &[u8], cancel: &Cancel) -> Result<()> {
        let path = self.key(key);
        self.wait(cancel, self.store.put(&path, bytes.to_vec().into())).map(drop)
    }

    fn put_file(&self, key: &str, path: &Path, progress: &dyn Progress, cancel: &Cancel) -> Result<()> {
        let signed = self.url(Method::PUT, key)?;
        self.http.put(&signed, path, progress, cancel).map_err(|error| match error.kind() {
            Kind::NotFound => Error::new(Kind::NotFound, format!("{}: there is no such bucket", self.name()))
                .hint("make it first"),
            _ => error,
        })
    }

    fn list(&self, prefix: &str, cancel: &Cancel) -> Result<Vec<ObjectInfo>> {
        // The crate lists whole folders: what is behind the last slash is looked at here.
        let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
        let path = self.key(folder);
        let at = if folder.is_empty() && self.place.prefix.is_empty() { None } else { Some(&path) };
        let found = self.wait(cancel, async {
            let mut found = Vec::new();
            let mut list = self.store.list(at);
            while let Some(object) = list.next().await {
                found.push(object?);
            }
            Ok(found)
        })?;
        let mut found: Vec<ObjectInfo> = found.into_iter().filter_map(|object| self.info(&object)).collect();
        found.retain(|object| object.key.starts_with(prefix));
        found.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(found)
    }

    fn delete(&self, key: &str, cancel: &Cancel) -> Result<()> {
        let path = self.key(key);
        match self.wait(cancel, self.store.delete(&path)) {
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            deleted => deleted,
        }
    }
}
