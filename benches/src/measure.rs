//! One number each.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rump_tests::guest::GUEST_ADDRESS;

use crate::guest::{Guest, Job, Kind, Kit, LARGE, SMALL};

const SERVER: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(GUEST_ADDRESS), 80);

/// Memory for every measurement but that of memory, in KiB: enough for both to keep the large file.
pub const PLENTY: u32 = 256 << 10;

/// How long a guest may take until it serves.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// Seconds from starting QEMU to the first complete 200.
pub fn first_200(kit: &Kit, kind: Kind) -> Result<f64> {
    let mut guest = kit.start(kind, PLENTY, Job::Serve)?;
    Ok(wait_until_it_serves(kit, &mut guest, BOOT_LIMIT)?
        .context("it never served")?
        .as_secs_f64())
}

/// Waits until a guest serves; gives the time since QEMU was started, or nothing if it does not serve in time or ends.
fn wait_until_it_serves(
    kit: &Kit,
    guest: &mut Guest,
    within: Duration,
) -> Result<Option<Duration>> {
    // Several clients in turn, because one that asked too early has to give up before it may ask again.
    const CLIENTS: u32 = 8;
    const STAGGER: Duration = Duration::from_millis(5);
    let started = guest.started;
    let first: Mutex<Option<Duration>> = Mutex::new(None);
    let done = AtomicBool::new(false);
    kit.namespace().enter(|| {
        scope(|scope| {
            for number in 0..CLIENTS {
                let (first, done) = (&first, &done);
                scope.spawn(move || {
                    sleep(STAGGER * number);
                    while !done.load(Ordering::Relaxed) {
                        if fetch_small(STAGGER * CLIENTS).is_ok() {
                            first
                                .lock()
                                .expect("no panic")
                                .get_or_insert(started.elapsed());
                            done.store(true, Ordering::Relaxed);
                        }
                        sleep(Duration::from_millis(1));
                    }
                });
            }
            while !done.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(10));
                if started.elapsed() > within || !guest.is_running().unwrap_or(false) {
                    done.store(true, Ordering::Relaxed);
                }
            }
        });
    });
    Ok(first.into_inner().expect("no panic"))
}

fn fetch_small(patience: Duration) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&SERVER, patience)?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    stream.write_all(
        format!("GET /{SMALL} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n").as_bytes(),
    )?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(
        answer.starts_with(b"HTTP/1.1 200 ") && answer.len() > 1024,
        "not the file"
    );
    Ok(())
}

/// The least memory, in MiB, with which it serves: found by halving, to a 32nd.
pub fn least_memory(kit: &Kit, kind: Kind) -> Result<f64> {
    let serves = |memory: u32| -> Result<bool> {
        let mut guest = kit.start(kind, memory, Job::Serve)?;
        Ok(wait_until_it_serves(kit, &mut guest, Duration::from_secs(20))?.is_some())
    };
    let (mut too_little, mut enough) = (1024, PLENTY);
    ensure!(
        serves(enough)?,
        "it does not serve with {} MiB",
        enough >> 10
    );
    while enough - too_little > (enough / 32).max(128) {
        // In steps of 128 KiB, near the geometric middle.
        let middle = (f64::from(too_little) * f64::from(enough)).sqrt();
        let middle = ((middle / 128.0).round() as u32 * 128).clamp(too_little + 128, enough - 128);
        if serves(middle)? {
            enough = middle
        } else {
            too_little = middle
        }
    }
    Ok(f64::from(enough) / 1024.0)
}

/// What one boot can tell.
pub struct Served {
    /// Requests for 1 KiB in a second, on one connection.
    pub requests_1: f64,
    /// The same on 32.
    pub requests_32: f64,
    /// MB/s of the large file, first from the disk, then from memory.
    pub cold: f64,
    /// The second time.
    pub warm: f64,
}

/// Boots a guest and puts it to work.
pub fn served(kit: &Kit, kind: Kind, seconds: u32) -> Result<Served> {
    let mut guest = kit.start(kind, PLENTY, Job::Serve)?;
    wait_until_it_serves(kit, &mut guest, BOOT_LIMIT)?
        .with_context(|| format!("it never served:\n{}", guest.console()))?;
    let cold = fetch_large(kit)?;
    let warm = fetch_large(kit)?;
    Ok(Served {
        cold,
        warm,
        requests_1: wrk(kit, 1, seconds)?,
        requests_32: wrk(kit, 32, seconds)?,
    })
}

fn fetch_large(kit: &Kit) -> Result<f64> {
    kit.namespace().enter(|| {
        let mut stream = TcpStream::connect_timeout(&SERVER, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        let start = Instant::now();
        stream.write_all(
            format!("GET /{LARGE} HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n").as_bytes(),
        )?;
        let mut piece = vec![0; 1 << 20];
        let mut got = 0;
        loop {
            match stream.read(&mut piece)? {
                0 => break,
                length => got += length,
            }
        }
        ensure!(got > 64 << 20, "only {got} bytes of {LARGE}");
        Ok(got as f64 / start.elapsed().as_secs_f64() / 1e6)
    })
}

fn wrk(kit: &Kit, connections: u32, seconds: u32) -> Result<f64> {
    let mut wrk = kit.namespace().command(Path::new("wrk"));
    wrk.args([
        "-t1",
        &format!("-c{connections}"),
        &format!("-d{seconds}s"),
        &format!("http://{GUEST_ADDRESS}/{SMALL}"),
    ]);
    let done = wrk.output().context("running wrk")?;
    let text = String::from_utf8_lossy(&done.stdout);
    for bad in ["Non-2xx", "Socket errors"] {
        if let Some(line) = text.lines().find(|line| line.contains(bad)) {
            bail!("wrk with {connections} connections: {}", line.trim());
        }
    }
    let rate = text
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"))
        .with_context(|| format!("wrk said:\n{text}"))?;
    Ok(rate.trim().parse()?)
}

/// MB/s of sequential reads, and reads of 4 KiB in a second, straight from the disk.
pub fn raw_reads(kit: &Kit, kind: Kind) -> Result<(f64, f64)> {
    let mut guest = kit.start(kind, PLENTY, Job::ReadRaw)?;
    guest.wait(Duration::from_secs(120))?;
    let console = guest.console();
    let of = |word: &str| -> Result<(f64, f64)> {
        let line = console
            .lines()
            .find_map(|line| line.split_once(&format!("{word} ")))
            .with_context(|| format!("no {word:?} on the console:\n{console}"))?;
        let mut numbers = line.1.split_whitespace().map(str::parse::<f64>);
        match (numbers.next(), numbers.next()) {
            (Some(Ok(bytes)), Some(Ok(nanoseconds))) => Ok((bytes, nanoseconds / 1e9)),
            _ => bail!("not two numbers after {word:?}: {:?}", line.1),
        }
    };
    let (bytes, seconds) = of("sequential")?;
    let (random_bytes, random_seconds) = of("random")?;
    Ok((
        bytes / seconds / 1e6,
        random_bytes / 4096.0 / random_seconds,
    ))
}
