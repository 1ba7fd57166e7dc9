//! Time: the time-stamp counter, calibrated, and the timer of the local APIC.
//!
//! Where neither the processor nor the hypervisor tells the counter's rate, it is measured for a few milliseconds at boot, and once
//! more over a second or more when the machine has nothing to do ([`refine`]).

use crate::acpi::Facts;
use crate::calibrate::{self, Measured};
use crate::{apic, cpu, interrupt};
use core::arch::x86_64::_rdtsc;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};
use spin::{Mutex, Once};

pub(crate) const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// A rate as a factor: nanoseconds = ticks × `factor` / 2³².
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rate {
    factor: u64,
    hz: u64,
}

impl Rate {
    fn new(hz: u64) -> Rate {
        Rate {
            factor: (NANOS_PER_SECOND << 32) / hz.max(1),
            hz,
        }
    }

    /// The ticks in `nanos`, rounded up; all there are if that is too many.
    fn ticks(self, nanos: u64) -> u64 {
        let ticks =
            (u128::from(nanos) * u128::from(self.hz)).div_ceil(u128::from(NANOS_PER_SECOND));
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

/// The nanoseconds in `ticks`, by a rate's factor.
fn scaled(ticks: u64, factor: u64) -> u64 {
    ((u128::from(ticks) * u128::from(factor)) >> 32) as u64
}

/// Where the rate comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The processor or the hypervisor tells it.
    Told,
    /// Measured against the ACPI timer.
    PmTimer,
    /// Measured against the 8254.
    Pit,
    /// Measured against the local APIC's timer, for want of anything else, at the rate that hypervisors give it.
    ApicTimer,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Told => "told by the processor",
            Source::PmTimer => "measured against the ACPI timer",
            Source::Pit => "measured against the 8254",
            Source::ApicTimer => "measured against the APIC's timer",
        })
    }
}

static ENTRY: Once<u64> = Once::new();

/// The line that time follows: it was `NANOS` when the counter was `TSC`, and goes on by `FACTOR`; 0 until the rate is known. Set in
/// threads alone, with interrupts off: who reads them is not interrupted by who sets them.
static TSC: AtomicU64 = AtomicU64::new(0);
static NANOS: AtomicU64 = AtomicU64::new(0);
static FACTOR: AtomicU64 = AtomicU64::new(0);

/// What does not change once it is known.
struct Timer {
    /// The timer's own rate; `None` if it goes by the time-stamp counter.
    rate: Option<Rate>,
    source: Source,
}

static TIMER: Once<Timer> = Once::new();

/// A measurement to be finished over a longer time.
static MEASURED: Mutex<Option<Measured>> = Mutex::new(None);

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: every processor with long mode has it.
    unsafe { _rdtsc() }
}

/// Notes the time of entry: the epoch of [`now_nanos`].
pub(crate) fn entered() {
    ENTRY.call_once(tsc);
}

/// Finds the rates and sets up the timer to call `expired` when it fires. Once, after the local APIC.
pub(crate) fn init(facts: &Facts, expired: fn(usize)) {
    let start = *ENTRY.call_once(tsc);
    let features = cpu::features();
    let by_deadline = features.tsc_deadline;
    let vector = interrupt::allocate(expired, 0);
    let vector = vector.map_or(interrupt::SPURIOUS_VECTOR, |vector| vector.number());
    // The timer may have to be the reference, and counts only if it is not told a deadline.
    apic::set_timer_vector(vector, false);
    let told = features.tsc_hz.filter(|_| by_deadline);
    let measured = told.is_none().then(|| calibrate::measure(facts));
    let (tsc_hz, timer_hz, source) = match &measured {
        Some(measured) => (measured.tsc_hz, measured.timer_hz, measured.source),
        None => (told.unwrap_or(NANOS_PER_SECOND), 0, Source::Told),
    };
    let (tsc_hz, source) = match features.tsc_hz {
        Some(hz) => (hz, Source::Told),
        None => (tsc_hz, source),
    };
    if by_deadline {
        apic::set_timer_vector(vector, true);
    }
    TSC.store(start, Ordering::Relaxed);
    FACTOR.store(Rate::new(tsc_hz).factor, Ordering::Relaxed);
    let rate = (!by_deadline).then(|| Rate::new(timer_hz));
    TIMER.call_once(|| Timer { rate, source });
    if source != Source::Told {
        *MEASURED.lock() = measured;
    }
}

/// Measures the counter's rate once more, if a second or more has passed since the first measurement. From a thread, with
/// interrupts off, when there is nothing else to do. Time goes on from where it is, at the better rate.
pub fn refine() {
    // Held by nobody else: there is one processor, and interrupts' handlers do not come here.
    let Some(mut pending) = MEASURED.try_lock() else {
        return;
    };
    let Some(measured) = &mut *pending else {
        return;
    };
    if let Some(hz) = measured.again(now_nanos()) {
        let counter = tsc();
        let nanos = nanos_at(counter);
        TSC.store(counter, Ordering::Relaxed);
        NANOS.store(nanos, Ordering::Relaxed);
        FACTOR.store(Rate::new(hz).factor, Ordering::Relaxed);
        *pending = None;
    } else if !measured.wants_more() {
        *pending = None;
    }
}

fn nanos_at(counter: u64) -> u64 {
    let passed = counter.saturating_sub(TSC.load(Ordering::Relaxed));
    NANOS.load(Ordering::Relaxed) + scaled(passed, FACTOR.load(Ordering::Relaxed))
}

/// Nanoseconds since entry; 0 until the rate is known.
pub fn now_nanos() -> u64 {
    nanos_at(tsc())
}

/// Ticks of the time-stamp counter per second, and where that is known from.
pub fn tsc_rate() -> Option<(u64, Source)> {
    let factor = FACTOR.load(Ordering::Relaxed);
    TIMER
        .get()
        .map(|timer| ((NANOS_PER_SECOND << 32) / factor.max(1), timer.source))
}

/// Has the timer fire once at `nanos` since entry, or at once if that is past. A later call replaces an earlier one. It may
/// fire sooner than told, if that is far away.
pub fn arm(nanos: u64) {
    let Some(timer) = TIMER.get() else { return };
    match timer.rate {
        None => {
            let rate = tsc_rate().map_or(1, |(hz, _)| hz);
            let ticks = Rate::new(rate).ticks(nanos.saturating_sub(NANOS.load(Ordering::Relaxed)));
            apic::set_deadline(TSC.load(Ordering::Relaxed).saturating_add(ticks).max(1));
        }
        Some(rate) => {
            let ticks = rate.ticks(nanos.saturating_sub(now_nanos()));
            apic::set_count(u32::try_from(ticks).unwrap_or(u32::MAX).max(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_and_nanoseconds_agree_over_years() {
        for hz in [1_000_000, 999_999_937, 2_400_000_000, 5_000_000_001] {
            let rate = Rate::new(hz);
            for nanos in [
                0,
                1,
                1_000_000_000,
                86_400_000_000_000,
                10 * 365 * 86_400_000_000_000,
            ] {
                let back = scaled(rate.ticks(nanos), rate.factor);
                let error = back.abs_diff(nanos);
                assert!(
                    error <= 1 + nanos / 1_000_000_000 + NANOS_PER_SECOND / hz,
                    "{hz} Hz: {nanos} became {back}"
                );
            }
        }
    }

    #[test]
    fn no_time_overflows() {
        assert_eq!(Rate::new(5_000_000_000).ticks(u64::MAX), u64::MAX);
        assert!(scaled(u64::MAX, Rate::new(1).factor) > 0);
    }
}
