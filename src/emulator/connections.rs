//! Connections: how many there are, what they speak, and cutting them.

use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::lock;

/// Sums since the start or the last reset, without the admin endpoint's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub(super) accepted: u64,
    pub(super) open: usize,
    pub(super) handshakes: u64,
    pub(super) resumed: u64,
    pub(super) http2: u64,
}

#[derive(Clone)]
pub(super) struct Connections {
    sums: Arc<Mutex<Sums>>,
    cut: watch::Sender<()>,
}

/// One connection; dropped when it is closed.
pub(super) struct Connection {
    all: Connections,
}

impl Connections {
    pub(super) fn new() -> Self {
        Self { sums: Arc::default(), cut: watch::Sender::new(()) }
    }

    pub(super) fn accepted(&self) -> Connection {
        let mut sums = lock(&self.sums);
        sums.accepted += 1;
        sums.open += 1;
        Connection { all: self.clone() }
    }

    /// Closes every connection of now, whatever is under way on it.
    pub(super) fn cut(&self) {
        self.cut.send_replace(());
    }

    pub(super) fn sums(&self) -> Sums {
        *lock(&self.sums)
    }

    /// Forgets all but how many are open.
    pub(super) fn reset(&self) {
        let mut sums = lock(&self.sums);
        *sums = Sums { open: sums.open, ..Sums::default() };
    }
}

impl Connection {
    /// The TLS handshake is finished.
    pub(super) fn secured(&self, tls: &rustls::ServerConnection) {
        let resumed = tls.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
        let http2 = tls.alpn_protocol() == Some(b"h2");
        let mut sums = lock(&self.all.sums);
        sums.handshakes += 1;
        sums.resumed += u64::from(resumed);
        sums.http2 += u64::from(http2);
    }

    /// Changes when it is to be cut.
    pub(super) fn cut(&self) -> watch::Receiver<()> {
        self.all.cut.subscribe()
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        lock(&self.all.sums).open -= 1;
    }
}
