//! `Retry-After`: seconds, or a point in time (RFC 9110, sections 5.6.7 and 10.2.3).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// How long a server asks to wait; nothing when it says neither seconds nor a date, and no time at
/// all when its date is past.
pub(super) fn retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    let text = text.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = UNIX_EPOCH.checked_add(Duration::from_secs(seconds_of_date(text)?))?;
    Some(then.duration_since(now).unwrap_or_default())
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`, or of one of the two older forms,
/// `Sunday, 06-Nov-94 08:49:37 GMT` and `Sun Nov  6 08:49:37 1994`.
fn seconds_of_date(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.split([' ', ',', '-']).filter(|word| !word.is_empty()).collect();
    let (day, month, year, time) = match words[..] {
        [_, day, month, year, time, "GMT"] => (day, month, year, time),
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    let month = MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))? as u64 + 1;
    let year = match (year.len(), year.parse::<u64>().ok()?) {
        (2, year @ ..70) => 2000 + year,
        (2, year) => 1900 + year,
        (_, year) => year,
    };
    let day = day.parse().ok().filter(|day| (1..=31).contains(day))?;
    let mut clock = time.split(':').map(|part| part.parse::<u64>().ok().filter(|part| *part <= 60));
    let (hours, minutes, seconds) = (clock.next()??, clock.next()??, clock.next()??);
    let time = hours * 3600 + minutes * 60 + seconds; // none is above 60
    days_since_1970(year, month, day)?.checked_mul(86_400)?.checked_add(time)
}

/// Counts from March, so that the leap day is the last of a year.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    let (year, month) =
        if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let days = year.checked_mul(365)?.checked_add(leap_days)?;
    let days = days.checked_add((153 * month + 2) / 5 + day)?;
    days.checked_sub(719_469) // of 1 January 1970
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reference: `date -u -d '1994-11-06 08:49:37' +%s` and the like.
    #[test]
    fn dates_are_read_in_all_three_forms() {
        for (text, seconds) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
            ("Sun Nov  6 08:49:37 1994", 784_111_777),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("Fri, 31 Dec 2100 12:00:00 GMT", 4_133_937_600),
        ] {
            assert_eq!(seconds_of_date(text), Some(seconds), "{text}");
        }
        for bad in ["", "soon", "Sun, 06 Xyz 1994 08:49:37 GMT", "Sun, 06 Nov 1994 99:49:37 GMT"] {
            assert_eq!(seconds_of_date(bad), None, "{bad}");
        }
        for year in ["18446744073709551615", "50539024859478223", "99999999999999"] {
            assert_eq!(
                seconds_of_date(&format!("Sun, 06 Nov {year} 08:49:37 GMT")),
                None,
                "{year}"
            );
        }
    }

    #[test]
    fn what_is_past_means_no_wait() {
        let now = UNIX_EPOCH + Duration::from_secs(784_111_770);
        let wait = |text| retry_after(text, now);
        assert_eq!(wait(" 120 "), Some(Duration::from_secs(120)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::from_secs(7)));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:00 GMT"), Some(Duration::ZERO));
        assert_eq!(wait("-1"), None);
    }
}
