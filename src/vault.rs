//! Key Vault over REST: three object types, by name and version, and their lists.
//!
//! This module knows URLs, the challenge, JSON models and errors of the data plane. It knows nothing
//! of files, classes' aliases or rendering.

pub mod model;

pub use model::{Body, Jwk, ObjectVersion};
