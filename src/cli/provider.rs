//! `akvfs provider`: the CSI provider.

use crate::config::ProviderArgs;
use crate::error::{Code, Error, Result};
use crate::{app, process};

pub(super) async fn run(args: ProviderArgs) -> Result<()> {
    let stop = process::stop_token().map_err(|error| {
        Error::new(Code::Local, format!("signals cannot be handled: {}", error.kind()))
    })?;
    app::provider(args, stop).await
}
