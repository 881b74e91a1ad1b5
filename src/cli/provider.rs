//! `akvfs provider`: the CSI provider.

use crate::config::ProviderArgs;
use crate::error::{Code, Error, Result};
use crate::{app, process, telemetry};

pub(super) async fn run(args: ProviderArgs) -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(Code::Local, format!("signals cannot be handled: {}", error.kind()))
    };
    let stop = process::stop_token().map_err(failed)?;
    process::on_user_signals(telemetry::adjust).map_err(failed)?;
    app::provider(args, stop).await
}
