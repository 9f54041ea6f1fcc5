//! A TCP proxy before a server, which breaks connections or answers for the server when it is told to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// A proxy; it ends with this value.
pub struct FaultProxy {
    /// Where it listens: `127.0.0.1:PORT`.
    pub address: String,
    shared: Arc<Shared>,
}

struct Shared {
    server: String,
    /// Bytes towards the server that still pass; negative: all.
    left: AtomicI64,
    /// What is answered once none pass: nothing, where 0.
    status: AtomicU64,
    sent: AtomicU64,
    ended: AtomicBool,
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
    }
}

impl FaultProxy {
    /// Before a server at `HOST:PORT`.
    #[must_use]
    pub fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let shared = Arc::new(Shared {
            server: server.to_owned(),
            left: AtomicI64::new(-1),
            status: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if own.ended.load(Ordering::Relaxed) {
                    return;
                }
                let own = Arc::clone(&own);
                std::thread::spawn(move || own.serve(&client));
            }
        });
        Self { address, shared }
    }

    /// After so many bytes more towards the server every connection is closed, after an answer with a status where that is not 0.
    pub fn cut_after(&self, bytes: u64, status: u16) {
        self.shared.status.store(status.into(), Ordering::Relaxed);
        self.shared.left.store(bytes as i64, Ordering::Relaxed);
    }

    /// Everything passes again.
    pub fn heal(&self) {
        self.shared.left.store(-1, Ordering::Relaxed);
    }

    /// Bytes that passed towards the server.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn serve(&self, mut client: &TcpStream) {
        let Ok(server) = TcpStream::connect(&self.server) else { return };
        let (mut back, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || {
            let _ = std::io::copy(&mut back, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Write);
        });
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read) = client.read(&mut buffer) {
            if read == 0 || !self.pass(&server, &buffer[..read]) {
                break;
            }
        }
        if self.left.load(Ordering::Relaxed) == 0 {
            let status = self.status.load(Ordering::Relaxed);
            if status > 0 {
                let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = client.write_all(answer.as_bytes());
                std::thread::sleep(Duration::from_millis(20));
            }
            let _ = client.shutdown(Shutdown::Both);
        }
        let _ = server.shutdown(Shutdown::Both);
    }

    /// Hands bytes on, as many as may pass. False where not all of them did.
    fn pass(&self, mut server: &TcpStream, bytes: &[u8]) -> bool {
        let mut allowed = bytes.len();
        let _ = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
            allowed = if left < 0 { bytes.len() } else { bytes.len().min(left as usize) };
            Some(if left < 0 { left } else { left - allowed as i64 })
        });
        self.sent.fetch_add(allowed as u64, Ordering::Relaxed);
        server.write_all(&bytes[..allowed]).is_ok() && allowed == bytes.len()
    }
}
