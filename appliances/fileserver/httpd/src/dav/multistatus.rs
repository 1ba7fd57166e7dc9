//! Answers of many parts (RFC 4918 §13), in pieces: [`START`], a `response` for each file, [`END`].

use super::property::{Facts, Live};
use super::question::{Property, Wanted};
use crate::escape::Escaped;
use crate::http::head::Status;
use crate::http::target::Encoded;
use alloc::string::String;
use core::fmt::Write as _;

/// What comes first.
pub const START: &str =
    "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n<D:multistatus xmlns:D=\"DAV:\">\n";

/// What comes last.
pub const END: &str = "</D:multistatus>\n";

/// The media type of all of it.
pub const CONTENT_TYPE: &str = "application/xml; charset=utf-8";

/// The body of a refusal for a PROPFIND without a bound (RFC 4918 §9.1).
pub const FINITE_DEPTH: &str = "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
    <D:error xmlns:D=\"DAV:\"><D:propfind-finite-depth/></D:error>\n";

/// Writes the properties of a file that a PROPFIND wants. `path` is decoded, with a slash at its end if it is a
/// collection.
pub fn properties(out: &mut String, path: &[u8], facts: &Facts<'_>, wanted: &Wanted) {
    start(out, path);
    let own = Live::ALL.into_iter().filter(|live| live.is_of(facts));
    match wanted {
        Wanted::All => propstat(out, Status::OK, "", |out| {
            own.for_each(|live| value(out, live, facts));
        }),
        Wanted::Names => propstat(out, Status::OK, "", |out| {
            own.for_each(|live| name(out, &Property::Live(live)));
        }),
        Wanted::These(these) => chosen(out, facts, these),
    }
    out.push_str("</D:response>\n");
}

fn chosen(out: &mut String, facts: &Facts<'_>, these: &[Property]) {
    let has = |property: &&Property| matches!(property, Property::Live(live) if live.is_of(facts));
    // RFC 4918 §14.22: a response has at least one propstat.
    if these.iter().any(|property| has(&property)) || these.is_empty() {
        propstat(out, Status::OK, "", |out| {
            for property in these.iter().filter(has) {
                if let Property::Live(live) = property {
                    value(out, *live, facts);
                }
            }
        });
    }
    if these.iter().any(|property| !has(&property)) {
        propstat(out, Status::NOT_FOUND, "", |out| {
            let missing = these.iter().filter(|property| !has(property));
            missing.for_each(|property| name(out, property));
        });
    }
}

/// Writes that none of the properties was changed: live ones are protected, others are not kept.
pub fn unchanged(out: &mut String, path: &[u8], properties: &[Property]) {
    start(out, path);
    for is_live in [true, false] {
        let such = |property: &&Property| matches!(property, Property::Live(_)) == is_live;
        let reason = match is_live {
            true => "<D:error><D:cannot-modify-protected-property/></D:error>",
            false => "",
        };
        if properties.iter().any(|property| such(&property)) {
            propstat(out, Status::FORBIDDEN, reason, |out| {
                let them = properties.iter().filter(such);
                them.for_each(|property| name(out, property));
            });
        }
    }
    out.push_str("</D:response>\n");
}

/// Writes what became of a file.
pub fn outcome(out: &mut String, path: &[u8], status: Status) {
    start(out, path);
    // Writing into a String fails only if a formatter of ours does, and ours do not.
    let _ = writeln!(out, "<D:status>HTTP/1.1 {status}</D:status></D:response>");
}

fn start(out: &mut String, path: &[u8]) {
    // As above; a percent-encoded path has nothing that XML would take for markup.
    let _ = write!(out, "<D:response><D:href>{}</D:href>", Encoded(path));
}

fn propstat(out: &mut String, status: Status, reason: &str, write: impl FnOnce(&mut String)) {
    out.push_str("<D:propstat><D:prop>");
    write(out);
    // As above.
    let _ = write!(
        out,
        "</D:prop><D:status>HTTP/1.1 {status}</D:status>{reason}</D:propstat>"
    );
}

fn value(out: &mut String, live: Live, facts: &Facts<'_>) {
    let name = live.name();
    // As above.
    let _ = write!(out, "<D:{name}>");
    live.write(out, facts);
    let _ = write!(out, "</D:{name}>");
}

fn name(out: &mut String, property: &Property) {
    // As above.
    let _ = match property {
        Property::Live(live) => write!(out, "<D:{}/>", live.name()),
        Property::Unknown { namespace, name } => {
            let namespace = Escaped(namespace.as_bytes());
            write!(out, "<{name} xmlns=\"{namespace}\"/>")
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::ETag;
    use alloc::vec;

    const FILE: Facts<'_> = Facts {
        name: b"a<b.txt",
        is_collection: false,
        tag: ETag {
            inode: 3,
            size: 100,
            modified: (784_111_777, 0),
        },
        created: Some(784_111_777),
    };

    fn written(facts: &Facts<'_>, wanted: &Wanted) -> String {
        let mut out = String::new();
        properties(&mut out, b"/x y/a<b.txt", facts, wanted);
        out
    }

    #[test]
    fn all_of_a_files_properties_have_their_values() {
        let text = written(&FILE, &Wanted::All);
        for part in [
            "<D:href>/x%20y/a%3Cb.txt</D:href>",
            "<D:displayname>a&lt;b.txt</D:displayname>",
            "<D:creationdate>1994-11-06T08:49:37Z</D:creationdate>",
            "<D:getcontentlength>100</D:getcontentlength>",
            "<D:getcontenttype>text/plain; charset=utf-8</D:getcontenttype>",
            "<D:getetag>\"3-64-2ebc98a1.0\"</D:getetag>",
            "<D:getlastmodified>Sun, 06 Nov 1994 08:49:37 GMT</D:getlastmodified>",
            "<D:resourcetype></D:resourcetype>",
            "<D:supportedlock></D:supportedlock>",
            "<D:status>HTTP/1.1 200 OK</D:status>",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        assert!(!text.contains("404"));
    }

    #[test]
    fn a_collection_is_one_and_has_no_length() {
        let facts = Facts {
            is_collection: true,
            ..FILE
        };
        let text = written(&facts, &Wanted::All);
        assert!(text.contains("<D:resourcetype><D:collection/></D:resourcetype>"));
        assert!(!text.contains("getcontentlength") && !text.contains("getetag"));
        let these = vec![
            Property::Live(Live::GetContentLength),
            Property::Live(Live::ResourceType),
        ];
        let text = written(&facts, &Wanted::These(these));
        let (there, missing) = text.split_once("</D:propstat>").unwrap();
        assert!(there.contains("collection") && there.contains("200 OK"));
        assert!(missing.contains("<D:getcontentlength/>") && missing.contains("404 Not Found"));
    }

    #[test]
    fn names_have_no_values_and_unknown_ones_their_namespace() {
        let text = written(&FILE, &Wanted::Names);
        assert!(text.contains("<D:getetag/>") && !text.contains("2ebc98a1"));
        let unknown = Property::Unknown {
            namespace: "u\"<".into(),
            name: "n".into(),
        };
        let text = written(&FILE, &Wanted::These(vec![unknown.clone()]));
        assert!(text.contains("<n xmlns=\"u&quot;&lt;\"/>"), "{text}");
        assert!(!text.contains("200 OK"));
        let mut text = String::new();
        let both = [unknown, Property::Live(Live::GetEtag)];
        unchanged(&mut text, b"/a", &both);
        assert_eq!(text.matches("403 Forbidden").count(), 2);
        assert_eq!(text.matches("cannot-modify-protected-property").count(), 1);
    }

    #[test]
    fn what_became_of_a_file_is_a_status() {
        let mut text = String::new();
        outcome(&mut text, b"/a&b", Status::FORBIDDEN);
        assert_eq!(
            text,
            "<D:response><D:href>/a%26b</D:href><D:status>HTTP/1.1 403 Forbidden</D:status></D:response>\n"
        );
    }
}
