//! `akvfs unmount`: end a mount; its process notices and ends too.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use crate::delivery::fuse;
use crate::error::Result;

/// End a mount made by `akvfs mount`
#[derive(ClapArgs, Debug)]
pub(super) struct Args {
    /// Where it is mounted
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

pub(super) fn run(args: &Args) -> Result<()> {
    fuse::unmount(&args.dir)
}
