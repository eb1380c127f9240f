//! XML Schema date-times, as resolution options and proofs carry them, and seconds since 1970, as blocks do.
//!
//! A clock is never read here.

use std::fmt;

/// Seconds in a day.
const DAY: i64 = 86_400;

/// A moment, in whole seconds since 1970-01-01T00:00:00Z.
///
/// A fraction of a second is cut off when a text is read. That changes no comparison with the time of a block, which is a
/// whole number: a block is later than `10.5` exactly if it is later than `10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

/// Why a text is no [`Timestamp`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseTimestampError {
    /// It does not look like `2026-01-31T23:59:59Z`.
    #[error(
        "expected a date and time such as 2026-01-31T23:59:59Z, with Z or an offset such as +01:00"
    )]
    Form,
    /// It does, but the calendar or the clock has no such moment.
    #[error(
        "got a date or time that does not exist, expected a month of 1 to 12, a day of that month, an hour of 0 to 23, \
        a minute and a second of 0 to 59, and an offset of at most 14:00"
    )]
    Range,
}

impl Timestamp {
    /// The moment this many seconds after 1970-01-01T00:00:00Z, such as the time of a block.
    pub fn from_unix(seconds: u32) -> Self {
        Self(i64::from(seconds))
    }

    /// Reads an `xsd:dateTimeStamp` of the years 0000 to 9999. A time without `Z` or an offset names no moment and is
    /// refused.
    pub fn parse(text: &str) -> Result<Self, ParseTimestampError> {
        let mut rest = Reader(text.as_bytes());
        let year = rest.number(4)?;
        let month = rest.after(b'-')?.number(2)?;
        let day = rest.after(b'-')?.number(2)?;
        let hour = rest.after(b'T')?.number(2)?;
        let minute = rest.after(b':')?.number(2)?;
        let second = rest.after(b':')?.number(2)?;
        rest.skip_fraction()?;
        let offset = rest.offset()?;
        if !rest.0.is_empty() {
            return Err(ParseTimestampError::Form);
        }
        let exists = (1..=12).contains(&month)
            && (1..=days_in(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        if !exists {
            return Err(ParseTimestampError::Range);
        }
        let days = days_since_1970(year, month, day);
        Ok(Self(
            days * DAY + hour * 3600 + minute * 60 + second - offset * 60,
        ))
    }
}

impl fmt::Display for Timestamp {
    /// In UTC without a fraction: `2026-01-31T23:59:59Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, seconds) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        let (year, month, day) = date_of(days);
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z"
        )
    }
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    /// Exactly this many decimal digits.
    fn number(&mut self, digits: usize) -> Result<i64, ParseTimestampError> {
        let (number, rest) = self
            .0
            .split_at_checked(digits)
            .ok_or(ParseTimestampError::Form)?;
        self.0 = rest;
        number.iter().try_fold(0, |value, digit| {
            if digit.is_ascii_digit() {
                Ok(value * 10 + i64::from(digit - b'0'))
            } else {
                Err(ParseTimestampError::Form)
            }
        })
    }

    fn after(&mut self, expected: u8) -> Result<&mut Self, ParseTimestampError> {
        match self.0 {
            [first, rest @ ..] if *first == expected => {
                self.0 = rest;
                Ok(self)
            }
            _ => Err(ParseTimestampError::Form),
        }
    }

    fn skip_fraction(&mut self) -> Result<(), ParseTimestampError> {
        let [b'.', fraction @ ..] = self.0 else {
            return Ok(());
        };
        let digits = fraction.iter().take_while(|byte| byte.is_ascii_digit());
        let (digits, rest) = fraction.split_at(digits.count());
        if digits.is_empty() {
            return Err(ParseTimestampError::Form);
        }
        self.0 = rest;
        Ok(())
    }

    /// The offset from UTC in minutes: `Z`, or at most 14 hours to either side.
    fn offset(&mut self) -> Result<i64, ParseTimestampError> {
        let sign = match self.0 {
            [b'Z', rest @ ..] => {
                self.0 = rest;
                return Ok(0);
            }
            [b'+', rest @ ..] => {
                self.0 = rest;
                1
            }
            [b'-', rest @ ..] => {
                self.0 = rest;
                -1
            }
            _ => return Err(ParseTimestampError::Form),
        };
        let hours = self.number(2)?;
        let minutes = self.after(b':')?.number(2)?;
        if minutes > 59 || hours * 60 + minutes > 14 * 60 {
            return Err(ParseTimestampError::Range);
        }
        Ok(sign * (hours * 60 + minutes))
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 in the Gregorian calendar. Years are counted from March, so that the leap day is the last of its
/// year.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    365 * year + leap_days + day_of_year - 719_468
}

/// The inverse of [`days_since_1970`].
fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let year = year_of_era + era * 400;
    if month < 10 {
        (year, month + 3, day)
    } else {
        (year + 1, month - 9, day)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn moments_are_read_and_written() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1),
            ("2000-02-29T12:00:00Z", 951_825_600),
            ("2026-09-16T15:01:28Z", 1_789_570_888),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("0000-01-01T00:00:00Z", -62_167_219_200),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            let moment = Timestamp::parse(text).unwrap();
            assert_eq!((moment.0, moment.to_string().as_str()), (seconds, text));
        }
    }

    #[test]
    fn offsets_and_fractions_name_the_same_moments() {
        let expected = Timestamp::parse("2026-09-16T15:01:28Z").unwrap();
        for text in [
            "2026-09-16T15:01:28.0Z",
            "2026-09-16T15:01:28.999999999999999999999Z",
            "2026-09-16T15:01:28+00:00",
            "2026-09-16T17:01:28+02:00",
            "2026-09-16T01:31:28.5-13:30",
            "2026-09-17T05:01:28+14:00",
        ] {
            assert_eq!(Timestamp::parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "2026",
            "2026-09-16",
            "2026-09-16T15:01:28",
            "2026-09-16 15:01:28Z",
            "2026-09-16t15:01:28z",
            "2026-9-16T15:01:28Z",
            "2026-09-16T15:01Z",
            "2026-09-16T15:01:28.Z",
            "2026-09-16T15:01:28ZZ",
            "2026-09-16T15:01:28+1:00",
            "2026-09-16T15:01:28+01",
            " 2026-09-16T15:01:28Z",
            "-026-09-16T15:01:28Z",
            "+2026-09-16T15:01:28Z",
            "1789570888",
            "２026-09-16T15:01:28Z",
        ] {
            assert_eq!(
                Timestamp::parse(text),
                Err(ParseTimestampError::Form),
                "{text}"
            );
        }
        for text in [
            "2026-00-16T15:01:28Z",
            "2026-13-16T15:01:28Z",
            "2026-02-29T15:01:28Z",
            "1900-02-29T15:01:28Z",
            "2026-09-31T15:01:28Z",
            "2026-09-00T15:01:28Z",
            "2026-09-16T24:00:00Z",
            "2026-09-16T15:60:28Z",
            "2026-09-16T15:01:60Z",
            "2026-09-16T15:01:28+14:01",
            "2026-09-16T15:01:28-00:60",
        ] {
            assert_eq!(
                Timestamp::parse(text),
                Err(ParseTimestampError::Range),
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn every_second_is_read_as_it_was_written(seconds in -62_167_219_200..=253_402_300_799_i64) {
            prop_assert_eq!(Timestamp::parse(&Timestamp(seconds).to_string()), Ok(Timestamp(seconds)));
        }

        #[test]
        fn later_moments_have_later_texts(a in 0..u32::MAX, b in 0..u32::MAX) {
            let (a, b) = (Timestamp::from_unix(a), Timestamp::from_unix(b));
            prop_assert_eq!(a.cmp(&b), a.to_string().cmp(&b.to_string()));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,40}") {
            let _ = Timestamp::parse(&text);
        }
    }
}
