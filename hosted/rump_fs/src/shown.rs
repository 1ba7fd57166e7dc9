//! Modes and times as people read them.

use ukfs::{FileType, Metadata, WallTime};

/// `drwxr-xr-x`, as ls(1).
pub fn mode(metadata: &Metadata) -> String {
    let bits = metadata.mode();
    let kind = match metadata.file_type() {
        FileType::Reg => '-',
        FileType::Dir => 'd',
        FileType::Blk => 'b',
        FileType::Chr => 'c',
        FileType::Lnk => 'l',
        FileType::Sock => 's',
        FileType::Fifo => 'p',
    };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits_here = bits >> shift;
        text.push(if bits_here & 4 != 0 { 'r' } else { '-' });
        text.push(if bits_here & 2 != 0 { 'w' } else { '-' });
        text.push(match (bits & special != 0, bits_here & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

/// What kind of file it is, in a word.
pub fn kind(kind: FileType) -> &'static str {
    match kind {
        FileType::Reg => "file",
        FileType::Dir => "directory",
        FileType::Blk => "block device",
        FileType::Chr => "character device",
        FileType::Lnk => "symbolic link",
        FileType::Sock => "socket",
        FileType::Fifo => "FIFO",
    }
}

/// `2024-02-29 23:59:59`, in UTC.
pub fn time(time: WallTime) -> String {
    const DAY: i64 = 86_400;
    let (day, second) = (time.seconds.div_euclid(DAY), time.seconds.rem_euclid(DAY));
    let (year, month, day) = civil(day);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// The date of a day counted from 1970-01-01, in the Gregorian calendar. Counts in eras of 400 years, each year from its March on,
/// so that the leap day is the last of its year.
fn civil(day: i64) -> (i64, i64, i64) {
    const ERA: i64 = 146_097;
    // From 0000-03-01.
    let day = day + 719_468;
    let (era, of_era) = (day.div_euclid(ERA), day.rem_euclid(ERA));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 {
        from_march + 3
    } else {
        from_march - 9
    };
    (era * 400 + year + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> String {
        time(WallTime { seconds, nanos: 0 })
    }

    #[test]
    fn times_are_dates_of_the_gregorian_calendar() {
        assert_eq!(at(0), "1970-01-01 00:00:00");
        assert_eq!(at(-1), "1969-12-31 23:59:59");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00");
        assert_eq!(at(4_107_542_399), "2100-02-28 23:59:59");
        assert_eq!(at(4_107_542_400), "2100-03-01 00:00:00");
    }

    #[test]
    fn the_last_times_that_an_inode_can_hold_are_shown() {
        assert!(at(i64::MAX).ends_with("15:30:07"));
        assert!(at(i64::MIN).starts_with('-'));
    }
}
