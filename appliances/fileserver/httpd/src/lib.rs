//! The file server as a library: what is on the disk, over HTTP/1.1, and WebDAV class 1 to change it.
//!
//! - [`http`], and [`dav`] for what WebDAV adds: what knows neither sockets nor files; pure functions.
//! - [`connection`]: one client; [`server`]: all of them.
//! - [`respond`]: what a request comes to; [`change`]: one that changes something.
//! - [`listing`]: the page that shows a directory; [`propfind`]: the same for programs; [`metrics`]: what is counted; [`piece`]: how these
//!   are sent while they are made.
//! - [`upload`], [`task`], [`walk`]: files on their way in, trees copied and removed; [`place`]: giving
//!   names, so that a reader sees the old or the new and never a part.
//! - [`escape`]: names in pages and answers.
//! - [`console`]: what a person can ask on the console, and by the power button.
//!
//! There are no locks (RFC 4918 §18.2): `LOCK` is 405. A `PUT` replaces the name, also that of a symbolic link.
//!
//! Nothing here knows which host it runs on; the package `fileserver` makes an image of it.
//!
//! Sources: RFC 9110 (HTTP semantics), RFC 9112 (HTTP/1.1), RFC 3986 (URIs),
//! RFC 4918 (WebDAV).
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod change;
pub mod connection;
pub mod console;
pub mod dav;
pub mod escape;
pub mod http;
pub mod listing;
pub mod metrics;
pub mod piece;
pub mod place;
pub mod propfind;
pub mod respond;
pub mod server;
pub mod task;
pub mod upload;
pub mod walk;

use alloc::sync::Arc;
use core::net::{Ipv4Addr, SocketAddr};
use rump::sync::OnceLock;
use rump::{Component, Config, Errno, Kernel};
use rumpkern::{aprint, uvm};
use rumpuser::PAGE_SIZE;
use server::{Options, Server};

/// The port of HTTP (RFC 9110 §4.2.1).
const PORT: u16 = 80;

/// Threads that serve: how many requests may wait for the disk at once.
const WORKERS: usize = 4;

/// What a client takes of the budget while it waits: its socket, control block, head and registration.
const BYTES_PER_CLIENT: usize = 8 << 10;

/// The fewest and the most clients at once, whatever the budget.
const CLIENTS: (usize, usize) = (16, 4096);

/// Boots a kernel of `components` as the host's command line says, and serves. Returns only when it
/// cannot go on: the status to end with.
pub fn run(components: &[&Component]) -> u8 {
    let mut config = Config::from_host();
    config.mounts = config.mounts_or_root();
    let kernel = match Kernel::boot(config, components) {
        Ok(kernel) => kernel,
        Err(errno) => {
            log::error!("fileserver: the kernel does not boot: {errno}");
            return 1;
        }
    };
    match serve(&kernel) {
        // The operator has stopped it, and halts the kernel.
        Ok(()) => loop {
            rumpuser::host().threads().park(None);
        },
        Err(errno) => {
            log::error!("fileserver: {errno}");
            kernel.halt(1)
        }
    }
}

/// Mounts what is to be mounted, and serves it.
///
/// # Errors
/// What prevents the start.
pub fn serve(kernel: &Arc<Kernel>) -> Result<(), Errno> {
    let _process = kernel.attach("fileserver")?;
    let stoppable = Arc::new(OnceLock::new());
    console::start(kernel, &stoppable)?;
    if rump::fs::mount_configured()? == 0 {
        log::warn!("fileserver: nothing is mounted: every path is 404");
    }
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let options = Options {
        root: b"/".to_vec(),
        address,
        workers: WORKERS,
        clients_max: clients_max(),
    };
    let clients = options.clients_max;
    let server = Server::new(options)?;
    aprint!("fileserver: serving / on port {PORT}, {WORKERS} workers, {clients} clients at most");
    // It is set nowhere else.
    let _ = stoppable.set(server.clone());
    server.run()
}

/// As many clients as half of what is free now holds.
fn clients_max() -> usize {
    let free = uvm::stats().free * PAGE_SIZE;
    (free / 2 / BYTES_PER_CLIENT).clamp(CLIENTS.0, CLIENTS.1)
}
