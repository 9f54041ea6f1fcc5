use crate::authority::SharedAuthority;
use std::path::PathBuf;
use std::time::Duration;

/// How patient to be, and how greedy.
#[derive(Debug, Clone)]
pub struct HttpOptions {
    /// For a connection to be made.
    pub connect_timeout: Duration,
    /// Without a single byte moving.
    pub stall_timeout: Duration,
    /// For all of a small answer: a registry, a manifest, a token. One that trickles does not keep us for ever.
    pub answer_timeout: Duration,
    /// Tries without a byte of progress, the first included.
    pub tries: u32,
    /// Before the second try; doubled each time.
    pub backoff: Duration,
    /// Bytes per second over all connections, downloads and uploads together; `None` or 0 for no limit.
    pub limit_rate: Option<u64>,
    /// The file of certificates to trust that `SSL_CERT_FILE` names; TLS reads it itself.
    pub certificates: Option<PathBuf>,
    /// Hosts that no proxy is asked for, of those that `NO_PROXY` has: `host:port`, `.domain:port`, and `*`. (The others are looked at by
    /// reqwest, which takes `*` for names only.)
    pub direct_hosts: Vec<String>,
    /// The variables that name proxies, and what they say; reqwest reads them itself, and passes over what it cannot use.
    pub proxies: Vec<(&'static str, String)>,
    /// What lets us in where objects are asked for; nothing without.
    pub authority: Option<SharedAuthority>,
    /// Whether proxies that the environment names are passed by: for servers on this machine.
    pub direct: bool,
    /// Whether no server is asked anything.
    pub offline: bool,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(15),
            stall_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(60),
            tries: 4,
            backoff: Duration::from_millis(400),
            limit_rate: None,
            certificates: None,
            direct_hosts: Vec::new(),
            proxies: Vec::new(),
            authority: None,
            direct: false,
            offline: false,
        }
    }
}
