//! The `kafscale` program; see `cli.rs`.

use std::process::ExitCode;

/// Reserves large blocks without touching them and is faster than the system's; see `docs/architecture.md`.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    kafscale::cli::run(std::env::args_os())
}
