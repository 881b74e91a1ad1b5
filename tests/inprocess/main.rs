//! Tests in one process: the emulator over real TLS.

mod identities;
mod sdk;
