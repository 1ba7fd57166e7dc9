//! Time: the time-stamp counter, calibrated; the timer; the battery-backed clock.
//!
//! Where neither the processor nor the hypervisor tells the counter's rate, it is measured against the ACPI timer, else
//! against the 8254's third counter, for [`CALIBRATION`]. The timer of the local APIC is measured in the same interval.

use crate::acpi::Facts;
use crate::{apic, cpu, interrupt};
use core::arch::x86_64::_rdtsc;
use core::fmt;
use core::time::Duration;
use spin::Once;
use x86_64::instructions::port::Port;

/// How long is measured. Of a reading's one or two microseconds most is the same at both ends; the error that is left is some 20 in
/// a million.
const CALIBRATION: Duration = Duration::from_millis(4);

const NANOS_PER_SECOND: u64 = 1_000_000_000;
/// Ticks of the ACPI timer per second (ACPI 6.5 §4.8.2.1).
const PM_TIMER_HZ: u64 = 3_579_545;
/// Ticks of the 8254 per second.
const PIT_HZ: u64 = 1_193_182;

/// Ticks of the local APIC's timer per second, as QEMU and KVM make it.
const USUAL_TIMER_HZ: u64 = 1_000_000_000;

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

    fn nanos(self, ticks: u64) -> u64 {
        ((u128::from(ticks) * u128::from(self.factor)) >> 32) as u64
    }

    /// The ticks in `nanos`, rounded up; all there are if that is too many.
    fn ticks(self, nanos: u64) -> u64 {
        let ticks =
            (u128::from(nanos) * u128::from(self.hz)).div_ceil(u128::from(NANOS_PER_SECOND));
        u64::try_from(ticks).unwrap_or(u64::MAX)
    }
}

struct State {
    /// The counter at the machine's entry.
    start: u64,
    tsc: Rate,
    /// The timer's own rate; `None` if it goes by the time-stamp counter.
    timer: Option<Rate>,
    source: Source,
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

static STATE: Once<State> = Once::new();
static ENTRY: Once<u64> = Once::new();

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
    let vector = interrupt::allocate(expired, 0)
        .map_or(interrupt::SPURIOUS_VECTOR, |vector| vector.number());
    apic::set_timer_vector(vector, by_deadline);
    let (tsc_hz, timer_hz, source) = match (features.tsc_hz, by_deadline) {
        (Some(hz), true) => (hz, hz, Source::Told),
        (told, _) => {
            let (tsc_hz, timer_hz, source) = measure(facts);
            (
                told.unwrap_or(tsc_hz),
                timer_hz,
                if told.is_some() { Source::Told } else { source },
            )
        }
    };
    STATE.call_once(|| State {
        start,
        tsc: Rate::new(tsc_hz),
        timer: (!by_deadline).then(|| Rate::new(timer_hz)),
        source,
    });
}

/// A clock of known rate to measure the others by: something that counts ticks up, modulo a power of two.
struct Reference {
    read: fn(u16) -> u32,
    port: u16,
    mask: u32,
    hz: u64,
}

/// The three counters at one moment.
struct Sample {
    tsc: u64,
    timer: u32,
    reference: u32,
}

/// Counts the time-stamp counter and the timer over an interval of the reference. Returns their rates.
fn measure(facts: &Facts) -> (u64, u64, Source) {
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
    // Nobody waits for the timer yet: its count is looked at, and interrupts are off.
    apic::set_count(u32::MAX);
    let first = sample(&reference);
    let wanted = (CALIBRATION.as_nanos() as u64 * reference.hz / NANOS_PER_SECOND) as u32;
    // A reference that stands still is given up: after so many reads it should long have been time.
    for _ in 0..100_000 {
        let passed =
            (reference.read)(reference.port).wrapping_sub(first.reference) & reference.mask;
        if passed >= wanted {
            break;
        }
    }
    let last = sample(&reference);
    apic::set_count(0);
    let timer = u64::from(first.timer.saturating_sub(last.timer));
    let interval = last.reference.wrapping_sub(first.reference) & reference.mask;
    let (interval, hz, source) = match interval {
        0 => (timer, USUAL_TIMER_HZ, Source::ApicTimer),
        _ => (interval.into(), reference.hz, source),
    };
    let per_second = |ticks: u64| {
        let hz = u128::from(ticks) * u128::from(hz) / u128::from(interval.max(1));
        u64::try_from(hz).unwrap_or(u64::MAX).max(1)
    };
    (
        per_second(last.tsc.wrapping_sub(first.tsc)),
        per_second(timer),
        source,
    )
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

/// Nanoseconds since entry; 0 until the rate is known.
pub fn now_nanos() -> u64 {
    STATE.get().map_or(0, |state| {
        state.tsc.nanos(tsc().saturating_sub(state.start))
    })
}

/// Ticks of the time-stamp counter per second, and where that is known from.
pub fn tsc_rate() -> Option<(u64, Source)> {
    STATE.get().map(|state| (state.tsc.hz, state.source))
}

/// Has the timer fire once at `nanos` since entry, or at once if that is past. A later call replaces an earlier one. It may
/// fire sooner than told, if that is far away.
pub fn arm(nanos: u64) {
    let Some(state) = STATE.get() else { return };
    match state.timer {
        None => apic::set_deadline(state.start.saturating_add(state.tsc.ticks(nanos)).max(1)),
        Some(rate) => {
            let ticks = rate.ticks(nanos.saturating_sub(now_nanos()));
            apic::set_count(u32::try_from(ticks).unwrap_or(u32::MAX).max(1));
        }
    }
}

/// Registers of the battery-backed clock (MC146818 data sheet; the century's is where QEMU and most firmware have it).
mod cmos {
    pub const SECONDS: u8 = 0;
    pub const MINUTES: u8 = 2;
    pub const HOURS: u8 = 4;
    pub const DAY: u8 = 7;
    pub const MONTH: u8 = 8;
    pub const YEAR: u8 = 9;
    pub const STATUS_A: u8 = 0x0a;
    pub const STATUS_B: u8 = 0x0b;
    pub const CENTURY: u8 = 0x32;
    pub const UPDATING: u8 = 0x80;
    pub const BINARY: u8 = 4;
    pub const HOURS_24: u8 = 2;
}

fn read_cmos(register: u8) -> u8 {
    /// Keeps the non-maskable interrupt on.
    const NMI_ON: u8 = 0x7f;
    // SAFETY: selects a register of the clock; nobody else uses these ports.
    unsafe { Port::<u8>::new(0x70).write(register & NMI_ON) };
    // SAFETY: reads it; status C, whose reading has a side effect, is never selected.
    unsafe { Port::<u8>::new(0x71).read() }
}

/// The civil time that the battery-backed clock shows, as seconds since 1970 UTC, if there is such a clock. It is read as UTC.
pub fn read_civil_time() -> Option<i64> {
    /// An update takes at most 2 ms; a clock that is always updating is none.
    const MAX_TRIES: u32 = 100_000;
    let registers = [
        cmos::SECONDS,
        cmos::MINUTES,
        cmos::HOURS,
        cmos::DAY,
        cmos::MONTH,
        cmos::YEAR,
        cmos::CENTURY,
    ];
    for _ in 0..MAX_TRIES {
        if read_cmos(cmos::STATUS_A) & cmos::UPDATING != 0 {
            core::hint::spin_loop();
            continue;
        }
        let first = registers.map(read_cmos);
        // Twice the same: no update came in between.
        if registers.map(read_cmos) == first {
            return civil_seconds(first, read_cmos(cmos::STATUS_B));
        }
    }
    None
}

/// Seconds since 1970 of what the clock's registers say: seconds, minutes, hours, day, month, year, century.
fn civil_seconds(registers: [u8; 7], status: u8) -> Option<i64> {
    const AFTERNOON: u8 = 0x80;
    let decode = |value: u8| match status & cmos::BINARY {
        0 => (value >> 4) * 10 + (value & 15),
        _ => value,
    };
    let [seconds, minutes, hours, day, month, year, century] = registers;
    let mut hour = decode(hours & !AFTERNOON);
    if status & cmos::HOURS_24 == 0 {
        hour = hour % 12 + if hours & AFTERNOON != 0 { 12 } else { 0 };
    }
    let [seconds, minutes, day, month, year, century] =
        [seconds, minutes, day, month, year, century].map(decode);
    let century = if (19..=25).contains(&century) {
        century
    } else {
        20
    };
    let right = seconds < 61
        && minutes < 60
        && hour < 24
        && (1..=31).contains(&day)
        && (1..=12).contains(&month);
    if !right || year > 99 {
        return None;
    }
    let days = days_since_1970(
        i64::from(century) * 100 + i64::from(year),
        month.into(),
        day.into(),
    );
    Some(((days * 24 + i64::from(hour)) * 60 + i64::from(minutes)) * 60 + i64::from(seconds))
}

/// Days from 1970-01-01 to a day of the Gregorian calendar. Years begin in March here, so that a leap day is the last of its year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    365 * year + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn civil_times_are_seconds_since_1970() {
        let binary = cmos::BINARY | cmos::HOURS_24;
        assert_eq!(civil_seconds([0, 0, 0, 1, 1, 70, 19], binary), Some(0));
        assert_eq!(
            civil_seconds([59, 59, 23, 29, 2, 0, 20], binary),
            Some(951_868_799)
        );
        assert_eq!(
            civil_seconds([38, 58, 5, 23, 11, 26, 20], binary),
            Some(1_795_413_518)
        );
        assert_eq!(
            civil_seconds([0, 0, 0, 1, 3, 0, 21], binary),
            Some(4_107_542_400)
        );
    }

    #[test]
    fn the_clocks_four_formats_mean_the_same() {
        let right = Some(1_795_455_518);
        assert_eq!(
            civil_seconds([38, 38, 17, 23, 11, 26, 20], cmos::BINARY | cmos::HOURS_24),
            right
        );
        assert_eq!(
            civil_seconds([38, 38, 0x85, 23, 11, 26, 20], cmos::BINARY),
            right
        );
        assert_eq!(
            civil_seconds([0x38, 0x38, 0x17, 0x23, 0x11, 0x26, 0x20], cmos::HOURS_24),
            right
        );
        assert_eq!(
            civil_seconds([0x38, 0x38, 0x85, 0x23, 0x11, 0x26, 0x20], 0),
            right
        );
        assert_eq!(
            civil_seconds([0, 0, 0x12, 1, 1, 0x70, 0x19], 0),
            Some(0),
            "12 at night is 0"
        );
    }

    #[test]
    fn a_clock_of_all_ones_or_zeroes_is_none() {
        assert_eq!(civil_seconds([0xff; 7], 0xff), None);
        assert_eq!(civil_seconds([0; 7], 0), None);
    }

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
                let back = rate.nanos(rate.ticks(nanos));
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
        assert!(Rate::new(1).nanos(u64::MAX) > 0);
    }
}
