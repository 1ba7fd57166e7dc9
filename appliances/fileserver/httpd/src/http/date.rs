//! HTTP dates (RFC 9110 §5.6.7): `Sun, 06 Nov 1994 08:49:37 GMT`, and the two older forms a
//! recipient must still read.

use core::fmt;

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const DAY_SECONDS: i64 = 86_400;

/// A date and time of day in UTC, in the Gregorian calendar, without leap seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// The year; 1970 at the epoch.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
}

/// The years that the four digits of an HTTP date can say.
const FIRST_SECOND: i64 = -62_167_219_200;
const LAST_SECOND: i64 = 253_402_300_799;

impl Civil {
    /// The civil time `seconds` after 1970-01-01 00:00:00 UTC, held to the years 0 to 9999.
    pub fn from_unix(seconds: i64) -> Civil {
        let seconds = seconds.clamp(FIRST_SECOND, LAST_SECOND);
        let days = seconds.div_euclid(DAY_SECONDS);
        let rest = seconds.rem_euclid(DAY_SECONDS);
        // Count from 1 March of year 0, so that the leap day is a year's last; 146097 days are 400
        // years, of which 97 are leap years.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        // Months from March have 31, 30, 31, 30, 31 days, over and over: 153 in five.
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
        let month = (month_from_march + 2) % 12 + 1;
        let year = era * 400 + year_of_era + i64::from(month <= 2);
        Civil {
            year,
            month: month as u8,
            day: day as u8,
            hour: (rest / 3600) as u8,
            minute: (rest / 60 % 60) as u8,
            second: (rest % 60) as u8,
        }
    }

    /// Seconds since 1970-01-01 00:00:00 UTC.
    pub fn to_unix(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month_from_march = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        let clock = i64::from(self.hour) * 3600 + i64::from(self.minute) * 60;
        days * DAY_SECONDS + clock + i64::from(self.second)
    }
}

/// Writes a time as an HTTP date. The number is seconds since 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HttpDate(pub i64);

impl fmt::Display for HttpDate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.clamp(FIRST_SECOND, LAST_SECOND);
        let civil = Civil::from_unix(seconds);
        let weekday = DAYS[seconds.div_euclid(DAY_SECONDS).rem_euclid(7) as usize];
        let month = MONTHS[usize::from(civil.month) - 1];
        write!(
            f,
            "{weekday}, {:02} {month} {:04} {:02}:{:02}:{:02} GMT",
            civil.day, civil.year, civil.hour, civil.minute, civil.second
        )
    }
}

impl HttpDate {
    /// Reads a date in any of the three forms of RFC 9110 §5.6.7: IMF-fixdate, RFC 850's, asctime's.
    /// A two-digit year is of the hundred years that end 50 years after `now` (seconds since 1970).
    pub fn parse(text: &[u8], now: i64) -> Option<HttpDate> {
        let text = core::str::from_utf8(text).ok()?.trim();
        let mut words = text.split_ascii_whitespace();
        let first = words.next()?;
        let civil = match first.strip_suffix(',') {
            Some(_) => {
                let date = words.next()?;
                match date.contains('-') {
                    true => rfc850(date, &mut words, now)?,
                    false => imf_fixdate(date, &mut words)?,
                }
            }
            None => asctime(&mut words)?,
        };
        match words.next() {
            None => Some(HttpDate(civil.to_unix())),
            Some(_) => None,
        }
    }
}

fn imf_fixdate<'a>(day: &str, words: &mut impl Iterator<Item = &'a str>) -> Option<Civil> {
    let month = month(words.next()?)?;
    let year = digits(words.next()?, 4)?;
    let clock = words.next()?;
    if words.next()? != "GMT" {
        return None;
    }
    civil(year, month, digits(day, 2)?, clock)
}

fn rfc850<'a>(date: &str, words: &mut impl Iterator<Item = &'a str>, now: i64) -> Option<Civil> {
    let mut parts = date.split('-');
    let day = digits(parts.next()?, 2)?;
    let month = month(parts.next()?)?;
    let short = digits(parts.next()?, 2)?;
    let clock = words.next()?;
    if words.next()? != "GMT" || parts.next().is_some() {
        return None;
    }
    let this_year = Civil::from_unix(now).year;
    let mut year = this_year - this_year.rem_euclid(100) + short;
    if year > this_year + 50 {
        year -= 100;
    }
    civil(year, month, day, clock)
}

fn asctime<'a>(words: &mut impl Iterator<Item = &'a str>) -> Option<Civil> {
    let month = month(words.next()?)?;
    let day = words.next()?;
    let clock = words.next()?;
    let year = digits(words.next()?, 4)?;
    civil(year, month, digits(day, day.len().min(2))?, clock)
}

fn month(name: &str) -> Option<u8> {
    let index = MONTHS.iter().position(|month| *month == name)?;
    Some(index as u8 + 1)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let wanted = text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
    if wanted { text.parse().ok() } else { None }
}

fn civil(year: i64, month: u8, day: i64, clock: &str) -> Option<Civil> {
    let mut parts = clock.split(':');
    let mut next = || digits(parts.next()?, 2);
    let (hour, minute, second) = (next()?, next()?, next()?);
    let valid = (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !valid || parts.next().is_some() {
        return None;
    }
    Some(Civil {
        year,
        month,
        day: day as u8,
        hour: hour as u8,
        minute: minute as u8,
        second: second as u8,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn the_three_forms_of_the_rfcs_example_are_one_moment() {
        let moment = HttpDate(784_111_777);
        let forms = [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
        ];
        for form in forms {
            assert_eq!(
                HttpDate::parse(form.as_bytes(), 1_700_000_000),
                Some(moment)
            );
        }
        assert_eq!(moment.to_string(), forms[0]);
    }

    #[test]
    fn each_day_of_five_centuries_goes_there_and_back() {
        for day in -90_000..100_000i64 {
            let seconds = day * DAY_SECONDS + 12_345;
            assert_eq!(Civil::from_unix(seconds).to_unix(), seconds);
            let text = HttpDate(seconds).to_string();
            assert_eq!(HttpDate::parse(text.as_bytes(), 0), Some(HttpDate(seconds)));
        }
    }

    #[test]
    fn nonsense_is_no_date_and_extremes_do_not_overflow() {
        for text in [
            "",
            "now",
            "Sun, 06 Nov 1994",
            "Sun, 6x Nov 1994 08:49:37 GMT",
            "a b c d e f",
        ] {
            assert_eq!(HttpDate::parse(text.as_bytes(), 0), None, "{text}");
        }
        assert_eq!(HttpDate::parse(b"\xff\xfe", 0), None);
        assert!(
            HttpDate(i64::MIN)
                .to_string()
                .ends_with("0000 00:00:00 GMT")
        );
        assert!(
            HttpDate(i64::MAX)
                .to_string()
                .ends_with("9999 23:59:59 GMT")
        );
    }
}
