//! Conditions on requests that change something (RFC 9110 §13).

use super::date::HttpDate;
use super::head::ETag;
use super::request::Request;

/// Whether the request may be carried out on what is there now; if not, it is 412. `now` is the civil time in
/// seconds since 1970.
///
/// `If` of RFC 4918 §10.4 is about locks, of which this server has none, so a request that has one never may.
pub fn holds(request: &Request, current: Option<ETag>, now: i64) -> bool {
    if request.has_if || !is_the_known_one(request, current, now) {
        return false;
    }
    // Present, and naming what is there: the request was for when it is not.
    !matches!((&request.if_none_match, current), (Some(list), Some(tag)) if tag.is_in(list))
}

/// `If-Match`, or where there is none `If-Unmodified-Since` (RFC 9110 §13.2.2, steps 1 and 2).
pub fn is_the_known_one(request: &Request, current: Option<ETag>, now: i64) -> bool {
    if let Some(list) = &request.if_match {
        return current.is_some_and(|tag| tag.is_strongly_in(list));
    }
    let since = request.if_unmodified_since.as_deref();
    match (since.and_then(|text| HttpDate::parse(text, now)), current) {
        (Some(since), Some(tag)) => HttpDate(tag.modified.0) <= since,
        // What is not there was not modified; what is no date is ignored (RFC 9110 §13.1.4).
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::Parsed;
    use super::*;
    use alloc::format;

    const TAG: ETag = ETag {
        inode: 3,
        size: 100,
        modified: (784_111_777, 0),
    };

    fn may(fields: &str, current: Option<ETag>) -> bool {
        let text = format!("PUT /a HTTP/1.1\r\nHost: x\r\n{fields}\r\n\r\n");
        let Ok(Parsed::Complete { request, .. }) = Request::parse(text.as_bytes()) else {
            panic!("{text}");
        };
        holds(&request, current, 1_700_000_000)
    }

    #[test]
    fn a_version_must_be_the_one_named() {
        let own = format!("If-Match: \"x\", {TAG}");
        assert!(may(&own, Some(TAG)));
        assert!(!may(&own, None));
        assert!(!may("If-Match: \"x\"", Some(TAG)));
        assert!(may("If-Match: *", Some(TAG)));
        assert!(!may("If-Match: *", None));
        assert!(!may(&format!("If-Match: W/{TAG}"), Some(TAG)));
    }

    #[test]
    fn a_star_in_if_none_match_is_for_what_is_new() {
        assert!(may("If-None-Match: *", None));
        assert!(!may("If-None-Match: *", Some(TAG)));
        assert!(!may(&format!("If-None-Match: {TAG}"), Some(TAG)));
        assert!(may("If-None-Match: \"x\"", Some(TAG)));
    }

    #[test]
    fn a_date_counts_where_no_version_is_named() {
        let same = "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT";
        let before = "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT";
        assert!(may(same, Some(TAG)));
        assert!(!may(before, Some(TAG)));
        assert!(may(before, None));
        assert!(may("If-Unmodified-Since: yesterday", Some(TAG)));
        assert!(may(&format!("{before}\r\nIf-Match: {TAG}"), Some(TAG)));
    }

    #[test]
    fn a_condition_on_locks_never_holds() {
        assert!(!may("If: (<urn:uuid:1>)", Some(TAG)));
        assert!(may("", Some(TAG)));
        assert!(may("", None));
    }
}
