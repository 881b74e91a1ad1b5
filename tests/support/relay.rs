//! A way to the services that can be cut: TCP bytes from one address to another.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// Most connections that a test may make.
const MAX_CONNECTIONS: usize = 1000;

struct Pair {
    client: TcpStream,
    server: TcpStream,
    frozen: Arc<AtomicBool>,
}

/// A listener that forwards. Its threads end with the test's process.
#[derive(Clone, Default)]
pub struct Relay(Arc<Mutex<Vec<Pair>>>);

impl Relay {
    pub fn start(at: SocketAddr, to: SocketAddr) -> Self {
        let relay = Self::default();
        let listener = TcpListener::bind(at).unwrap();
        let pairs = relay.0.clone();
        std::thread::spawn(move || {
            for client in listener.incoming().take(MAX_CONNECTIONS) {
                let (client, server) = (client.unwrap(), TcpStream::connect(to).unwrap());
                let pair = Pair { client, server, frozen: Arc::default() };
                forward(&pair.client, &pair.server, &pair.frozen);
                forward(&pair.server, &pair.client, &pair.frozen);
                pairs.lock().unwrap().push(pair);
            }
        });
        relay
    }

    /// Connections ever made.
    pub fn accepted(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// The connections of now carry nothing any more, and nobody is told.
    #[allow(dead_code)]
    pub fn freeze(&self) {
        self.0.lock().unwrap().iter().for_each(|pair| pair.frozen.store(true, Ordering::SeqCst));
    }

    /// The connections of now are closed.
    #[allow(dead_code)]
    pub fn close(&self) {
        for pair in self.0.lock().unwrap().iter() {
            let _ = pair.client.shutdown(Shutdown::Both);
            let _ = pair.server.shutdown(Shutdown::Both);
        }
    }
}

fn forward(from: &TcpStream, to: &TcpStream, frozen: &Arc<AtomicBool>) {
    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
    let frozen = frozen.clone();
    std::thread::spawn(move || {
        let mut bytes = [0; 16 * 1024];
        while let Ok(length @ 1..) = from.read(&mut bytes) {
            if !frozen.load(Ordering::SeqCst) && to.write_all(&bytes[..length]).is_err() {
                break;
            }
        }
        if !frozen.load(Ordering::SeqCst) {
            let _ = to.shutdown(Shutdown::Both);
        }
    });
}
