//! Who may talk to a socket of ours, whatever its mode lets in.

use tokio::net::UnixStream;

/// Whether the peer is root, or the user we run as. Else it is logged what was refused, such as "a
/// connection".
pub(crate) fn is_welcome(stream: &UnixStream, what: &str) -> bool {
    let ours = rustix::process::geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 || peer.uid() == ours => true,
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "refused {what} of another user");
            false
        }
        Err(error) => {
            tracing::warn!(err = %error, "refused {what} of an unknown user");
            false
        }
    }
}
