//! Finding the rates of the time-stamp counter and of the local APIC's timer, by a clock whose rate is known: the ACPI timer, else
//! the 8254's third counter.

use crate::acpi::Facts;
use crate::apic;
use crate::clock::{NANOS_PER_SECOND, Source, tsc};
use core::time::Duration;
use x86_64::instructions::port::Port;

/// How long is measured at first. Of the microsecond or two that a reading takes, most is the same at both ends; the error that is
/// left is up to 200 in a million.
const CALIBRATION: Duration = Duration::from_millis(4);

/// Ticks of the ACPI timer per second (ACPI 6.5 §4.8.2.1).
const PM_TIMER_HZ: u64 = 3_579_545;
/// Ticks of the 8254 per second.
const PIT_HZ: u64 = 1_193_182;
/// Ticks of the local APIC's timer per second, as QEMU and KVM make it.
const USUAL_TIMER_HZ: u64 = 1_000_000_000;

/// A clock of known rate to measure the others by: something that counts ticks up, modulo a power of two.
struct Reference {
    read: fn(u16) -> u32,
    port: u16,
    mask: u32,
    hz: u64,
}

impl Reference {
    fn passed(&self, from: u32, to: u32) -> u32 {
        to.wrapping_sub(from) & self.mask
    }
}

/// The three counters at one moment.
struct Sample {
    tsc: u64,
    timer: u32,
    reference: u32,
}

/// What was found, and what is needed to find it more exactly.
pub(crate) struct Measured {
    pub(crate) tsc_hz: u64,
    pub(crate) timer_hz: u64,
    pub(crate) source: Source,
    reference: Reference,
    first: Sample,
    /// When the first sample was taken, in nanoseconds since entry.
    since: u64,
}

/// Counts the time-stamp counter and the timer over an interval of the reference. With interrupts off.
pub(crate) fn measure(facts: &Facts) -> Measured {
    let (reference, source) = match facts.pm_timer {
        Some((port, wide)) => {
            let mask = if wide { u32::MAX } else { 0xff_ffff };
            (
                Reference {
                    read: read_pm_timer,
                    port,
                    mask,
                    hz: PM_TIMER_HZ,
                },
                Source::PmTimer,
            )
        }
        None => (start_pit(), Source::Pit),
    };
    // Nobody waits for the timer yet: its count is looked at.
    apic::set_count(u32::MAX);
    let first = sample(&reference);
    let wanted = (CALIBRATION.as_nanos() as u64 * reference.hz / NANOS_PER_SECOND) as u32;
    // A reference that stands still is given up: after so many reads it should long have been time.
    for _ in 0..100_000 {
        if reference.passed(first.reference, (reference.read)(reference.port)) >= wanted {
            break;
        }
    }
    let last = sample(&reference);
    apic::set_count(0);
    let timer = u64::from(first.timer.saturating_sub(last.timer));
    let (interval, hz, source) = match reference.passed(first.reference, last.reference) {
        0 => (timer, USUAL_TIMER_HZ, Source::ApicTimer),
        interval => (interval.into(), reference.hz, source),
    };
    Measured {
        tsc_hz: per_second(last.tsc.wrapping_sub(first.tsc), interval, hz),
        timer_hz: per_second(timer, interval, hz),
        source,
        reference,
        first,
        since: 0,
    }
}

/// The rate of what counted `ticks` while a clock of rate `hz` counted `interval`.
fn per_second(ticks: u64, interval: u64, hz: u64) -> u64 {
    let rate = u128::from(ticks) * u128::from(hz) / u128::from(interval.max(1));
    u64::try_from(rate).unwrap_or(u64::MAX).max(1)
}

impl Measured {
    /// The time-stamp counter's rate over the time since the first sample, if that is long enough; `now` is in nanoseconds since
    /// entry. If it is so long that the reference has come round, a new first sample is taken.
    pub(crate) fn again(&mut self, now: u64) -> Option<u64> {
        let passed = now.saturating_sub(self.since);
        if !self.wants_more() || passed < NANOS_PER_SECOND {
            return None;
        }
        let last = sample(&self.reference);
        if passed > self.round() / 16 * 15 {
            (self.first, self.since) = (last, now);
            return None;
        }
        let interval = self.reference.passed(self.first.reference, last.reference);
        (interval != 0).then(|| {
            per_second(
                last.tsc.wrapping_sub(self.first.tsc),
                interval.into(),
                self.reference.hz,
            )
        })
    }

    /// Whether the reference is good for measuring over seconds.
    pub(crate) fn wants_more(&self) -> bool {
        self.source == Source::PmTimer && self.round() > 4 * NANOS_PER_SECOND
    }

    /// Nanoseconds in which the reference comes round.
    fn round(&self) -> u64 {
        u64::from(self.reference.mask) * NANOS_PER_SECOND / self.reference.hz
    }
}

/// Reads the three counters, several times: the reading that took least was not interrupted by whoever runs this machine.
fn sample(reference: &Reference) -> Sample {
    const READINGS: usize = 16;
    let mut best = Sample {
        tsc: 0,
        timer: 0,
        reference: 0,
    };
    let mut least = u64::MAX;
    for _ in 0..READINGS {
        let before = tsc();
        let (counted, timer) = ((reference.read)(reference.port), apic::count());
        let took = tsc().saturating_sub(before);
        if took < least {
            least = took;
            best = Sample {
                tsc: before + took / 2,
                timer,
                reference: counted,
            };
        }
    }
    best
}

fn read_pm_timer(port: u16) -> u32 {
    // SAFETY: the ACPI tables say that the timer is there; reading it has no side effect.
    unsafe { Port::<u32>::new(port).read() }
}

/// The 8254's third counter, whose gate is in the port of the speaker, counting down from all ones.
const PIT_COUNTER: u16 = 0x42;
const PIT_CONTROL: u16 = 0x43;
const SPEAKER: u16 = 0x61;

fn start_pit() -> Reference {
    const GATE: u8 = 1;
    const SOUND: u8 = 2;
    /// Counter 2, low byte then high byte, mode 0 (one pass).
    const COUNTER_2_MODE_0: u8 = 0b1011_0000;
    // SAFETY: the port of the speaker; nobody else uses it.
    let speaker = unsafe { Port::<u8>::new(SPEAKER).read() };
    let gate = (speaker & !SOUND) | GATE;
    for (port, value) in [
        (SPEAKER, gate),
        (PIT_CONTROL, COUNTER_2_MODE_0),
        (PIT_COUNTER, 0xff),
        (PIT_COUNTER, 0xff),
    ] {
        // SAFETY: the counter's ports; nobody else uses them.
        unsafe { Port::<u8>::new(port).write(value) };
    }
    Reference {
        read: read_pit,
        port: PIT_COUNTER,
        mask: 0xffff,
        hz: PIT_HZ,
    }
}

fn read_pit(port: u16) -> u32 {
    const LATCH_COUNTER_2: u8 = 0b1000_0000;
    // SAFETY: the counter's control port; nobody else uses it.
    unsafe { Port::<u8>::new(PIT_CONTROL).write(LATCH_COUNTER_2) };
    let mut counter = Port::<u8>::new(port);
    // SAFETY: the low byte of what was latched.
    let low = unsafe { counter.read() };
    // SAFETY: and the high one.
    let high = unsafe { counter.read() };
    u32::from(u16::MAX - u16::from_le_bytes([low, high]))
}
