//! What an answer takes in memory is given back when it has been sent, not when it has been made: whoever
//! reads slowly would else let any number of them pile up.
//!
//! A handler puts a [`Held`] into its response's extensions, and [`hold`] ties it to the body.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};
use tonic::body::Body;
use tonic::codegen::{Bytes, http};

use crate::delivery::response::Place;

/// What an answer has room by, until it is dropped.
#[derive(Clone)]
pub(super) struct Held(#[allow(dead_code)] pub(super) Arc<Place>);

/// Lets the body keep what its response holds.
pub(crate) fn hold(mut response: http::Response<Body>) -> http::Response<Body> {
    match response.extensions_mut().remove::<Held>() {
        Some(held) => response.map(|body| Body::new(Sending { body, held })),
        None => response,
    }
}

/// A body on its way: HTTP/2 drops it when the last bytes have been queued.
struct Sending {
    body: Body,
    held: Held,
}

/// Bytes on their way: they go when the last of them was written to the socket, or the reader is gone.
struct Queued {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Queued {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl http_body::Body for Sending {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let held = self.held.clone();
        Pin::new(&mut self.body).poll_frame(context).map_ok(|frame| {
            frame.map_data(|bytes| Bytes::from_owner(Queued { bytes, _held: held }))
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use http_body::Body as _;

    use super::*;
    use crate::delivery::response::Room;

    #[tokio::test]
    async fn what_a_response_holds_goes_with_its_body() {
        let soon = Instant::now() + Duration::from_secs(5);
        let place = Arc::new(Room::default().place(None, 10, 1, soon).await.unwrap());
        let held = Arc::downgrade(&place);
        let whole = http_body_util::Full::from("0123");
        let mut response = http::Response::new(Body::new(whole));
        response.extensions_mut().insert(Held(place));
        let (head, mut body) = hold(response).into_parts();
        drop(head);
        assert!(held.upgrade().is_some(), "it is still to be sent");
        let frame = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await;
        let mut queued = frame.unwrap().unwrap().into_data().unwrap();
        drop(body);
        assert_eq!(queued.split_to(3), "012");
        assert!(held.upgrade().is_some(), "a part of it is queued");
        drop(queued);
        assert!(held.upgrade().is_none());
    }
}
