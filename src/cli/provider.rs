//! `akvfs provider`: the CSI provider.

use crate::config::ProviderArgs;
use crate::error::Result;
use crate::{app, process, telemetry};

pub(super) async fn run(args: ProviderArgs) -> Result<()> {
    let stop = process::stop_token()?;
    process::on_user_signals(telemetry::adjust)?;
    app::provider(args, stop).await
}
