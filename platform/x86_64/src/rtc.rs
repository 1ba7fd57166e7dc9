//! The battery-backed clock: civil time, to the second.

use x86_64::instructions::port::Port;

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
}
