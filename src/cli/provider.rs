//! `akvfs provider`: the CSI provider.

use crate::config::ProviderArgs;
use crate::error::{Code, Error, Result};
use crate::{app, process};

pub(super) async fn run(args: ProviderArgs) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(Code::Local, format!("signals cannot be handled: {}", error.kind()))
    };
    let stop = process::stop_token().map_err(failed)?;
    process::adjust_verbosity_by_signals().map_err(failed)?;
    app::provider(args, stop).await
}
