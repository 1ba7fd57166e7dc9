//! What the body of a PROPFIND or PROPPATCH asks (RFC 4918 §9.1, §9.2), read by `xmlparser`.
//!
//! Bounds: a body of [`BODY_MAX`] bytes, `DEPTH_MAX` elements inside one another, `PROPERTIES_MAX` properties. A
//! document type, and with it every entity, is refused (RFC 4918 §20.6 warns of them).

use super::property::Live;
use alloc::string::String;
use alloc::vec::Vec;
use xmlparser::{ElementEnd, Token, Tokenizer};

/// The longest body that is read.
pub const BODY_MAX: usize = 16 << 10;

const DEPTH_MAX: usize = 16;

const PROPERTIES_MAX: usize = 64;

/// The namespace of everything in RFC 4918.
const DAV: &str = "DAV:";

/// A property's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Property {
    /// One that this server computes.
    Live(Live),
    /// Any other.
    Unknown {
        /// The namespace; may be empty.
        namespace: String,
        /// The name in it.
        name: String,
    },
}

/// What a PROPFIND wants of each file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// `allprop`, and what an empty body means.
    All,
    /// `propname`: only which there are.
    Names,
    /// `prop`: these.
    These(Vec<Property>),
}

impl Wanted {
    /// The most bytes that the names of properties that no file has take in an answer about one: each byte escaped.
    pub fn most(&self) -> usize {
        let Wanted::These(these) = self else {
            return 0;
        };
        let sizes = these.iter().map(|property| match property {
            Property::Live(_) => 0,
            Property::Unknown { namespace, name } => 6 * (namespace.len() + name.len()) + 64,
        });
        sizes.sum()
    }
}

/// The body is not what it should be: 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadQuestion;

/// Reads the body of a PROPFIND.
///
/// # Errors
/// It is no well-formed `propfind` within the bounds.
pub fn propfind(body: &[u8]) -> Result<Wanted, BadQuestion> {
    if body.is_empty() {
        return Ok(Wanted::All);
    }
    let mut wanted = None;
    read(body, |path, element| {
        match (path, element.local) {
            ([], "propfind") if element.is_dav() => {}
            ([], _) => return Err(BadQuestion),
            (["propfind"], name) if element.is_dav() => {
                let this = match name {
                    "prop" => Wanted::These(Vec::new()),
                    "allprop" => Wanted::All,
                    "propname" => Wanted::Names,
                    // RFC 4918 §17: what is unknown is ignored.
                    _ => return Ok(()),
                };
                // RFC 4918 §14.20: one of them.
                if wanted.replace(this).is_some() {
                    return Err(BadQuestion);
                }
            }
            (["propfind", "prop"], _) => {
                if let Some(Wanted::These(properties)) = &mut wanted {
                    add(properties, element)?;
                }
            }
            _ => {}
        }
        Ok(())
    })?;
    wanted.ok_or(BadQuestion)
}

/// Reads the body of a PROPPATCH: the properties that it would set or remove.
///
/// # Errors
/// It is no well-formed `propertyupdate` within the bounds.
pub fn proppatch(body: &[u8]) -> Result<Vec<Property>, BadQuestion> {
    let mut properties = Vec::new();
    read(body, |path, element| match (path, element.local) {
        ([], "propertyupdate") if element.is_dav() => Ok(()),
        ([], _) => Err(BadQuestion),
        (["propertyupdate", "set" | "remove", "prop"], _) => add(&mut properties, element),
        _ => Ok(()),
    })?;
    if properties.is_empty() {
        return Err(BadQuestion);
    }
    Ok(properties)
}

fn add(properties: &mut Vec<Property>, element: &Element<'_>) -> Result<(), BadQuestion> {
    let property = match Live::named(element.local) {
        Some(live) if element.is_dav() => Property::Live(live),
        _ => Property::Unknown {
            namespace: String::from(element.namespace),
            name: String::from(element.local),
        },
    };
    if properties.contains(&property) {
        return Ok(());
    }
    if properties.len() == PROPERTIES_MAX {
        return Err(BadQuestion);
    }
    properties.push(property);
    Ok(())
}

/// An element's start.
struct Element<'a> {
    namespace: &'a str,
    local: &'a str,
}

impl Element<'_> {
    fn is_dav(&self) -> bool {
        self.namespace == DAV
    }
}

/// The elements that are open, and the namespaces that they declare.
#[derive(Default)]
struct Open<'a> {
    names: Vec<&'a str>,
    /// The qualified names, which the ends must repeat.
    tags: Vec<(&'a str, &'a str)>,
    /// Prefix, namespace, and how many elements were open where it was declared.
    declared: Vec<(&'a str, &'a str, usize)>,
}

impl<'a> Open<'a> {
    fn namespace(&self, prefix: &str) -> Result<&'a str, BadQuestion> {
        let known = self.declared.iter().rev();
        match known.clone().find(|(name, ..)| *name == prefix) {
            Some((_, namespace, _)) => Ok(namespace),
            None if prefix.is_empty() => Ok(""),
            None => Err(BadQuestion),
        }
    }

    fn declare(&mut self, prefix: &'a str, namespace: &'a str) -> Result<(), BadQuestion> {
        // A reference in a namespace's name would have to be resolved to be compared. A prefix cannot stand for no namespace
        // (Namespaces in XML 1.0 §5).
        let is_empty = !prefix.is_empty() && namespace.is_empty();
        if self.declared.len() == PROPERTIES_MAX || namespace.contains('&') || is_empty {
            return Err(BadQuestion);
        }
        self.declared.push((prefix, namespace, self.names.len()));
        Ok(())
    }

    fn close(&mut self) {
        self.names.pop();
        self.tags.pop();
        let depth = self.names.len();
        self.declared.retain(|(.., at)| *at < depth);
    }
}

/// Shows the start of each element with the names of those that it is in.
fn read<'a>(
    body: &'a [u8],
    mut show: impl FnMut(&[&str], &Element<'a>) -> Result<(), BadQuestion>,
) -> Result<(), BadQuestion> {
    let text = core::str::from_utf8(body).map_err(|_| BadQuestion)?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut open = Open::default();
    let mut started = None;
    let mut roots = 0;
    for token in Tokenizer::from(text) {
        match token.map_err(|_| BadQuestion)? {
            Token::DtdStart { .. } | Token::EmptyDtd { .. } => return Err(BadQuestion),
            Token::ElementStart { prefix, local, .. } => {
                roots += usize::from(open.names.is_empty());
                if open.names.len() == DEPTH_MAX || roots > 1 {
                    return Err(BadQuestion);
                }
                started = Some((prefix.as_str(), local.as_str()));
            }
            Token::Attribute {
                prefix,
                local,
                value,
                ..
            } => match (prefix.as_str(), local.as_str()) {
                ("", "xmlns") => open.declare("", value.as_str())?,
                ("xmlns", name) => open.declare(name, value.as_str())?,
                _ => {}
            },
            Token::ElementEnd { end, .. } => match end {
                ElementEnd::Close(prefix, local) => {
                    if open.tags.last() != Some(&(prefix.as_str(), local.as_str())) {
                        return Err(BadQuestion);
                    }
                    open.close();
                }
                ElementEnd::Open | ElementEnd::Empty => {
                    let (prefix, local) = started.take().ok_or(BadQuestion)?;
                    let namespace = open.namespace(prefix)?;
                    show(&open.names, &Element { namespace, local })?;
                    // What is not of this namespace must not be taken for it by what it holds.
                    open.names.push(if namespace == DAV { local } else { "" });
                    open.tags.push((prefix, local));
                    if matches!(end, ElementEnd::Empty) {
                        open.close();
                    }
                }
            },
            _ => {}
        }
    }
    match (roots, open.names.is_empty(), started) {
        (1, true, None) => Ok(()),
        _ => Err(BadQuestion),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;

    fn unknown(namespace: &str, name: &str) -> Property {
        Property::Unknown {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    #[test]
    fn a_propfind_wants_all_or_names_or_these() {
        assert_eq!(propfind(b""), Ok(Wanted::All));
        let all = b"<?xml version=\"1.0\"?><D:propfind xmlns:D=\"DAV:\"><D:allprop/></D:propfind>";
        assert_eq!(propfind(all), Ok(Wanted::All));
        let names = b"<propfind xmlns='DAV:'><propname></propname></propfind>";
        assert_eq!(propfind(names), Ok(Wanted::Names));
        let these =
            b"\xef\xbb\xbf<a:propfind xmlns:a='DAV:' xmlns:z='urn:z'><a:prop>\n <a:getetag/>\
            <z:getetag/><b xmlns='urn:b'/><a:new/><c/><a:getetag/></a:prop></a:propfind>\n";
        let expected = [
            Property::Live(Live::GetEtag),
            unknown("urn:z", "getetag"),
            unknown("urn:b", "b"),
            unknown("DAV:", "new"),
            unknown("", "c"),
        ];
        assert_eq!(propfind(these), Ok(Wanted::These(expected.to_vec())));
    }

    #[test]
    fn a_proppatch_names_what_it_would_change() {
        let body = b"<d:propertyupdate xmlns:d='DAV:'><d:set><d:prop><x xmlns='u'><y/></x></d:prop></d:set>\
            <d:remove><d:prop><d:getetag/></d:prop></d:remove></d:propertyupdate>";
        let expected = [unknown("u", "x"), Property::Live(Live::GetEtag)];
        assert_eq!(proppatch(body), Ok(expected.to_vec()));
        assert_eq!(proppatch(b""), Err(BadQuestion));
    }

    #[test]
    fn what_is_no_question_is_refused() {
        for body in [
            &b"x"[..],
            b"<",
            b"\xff\xfe",
            b"<propfind><prop/></propfind>",
            b"<D:propfind xmlns:D='DAV:'/>",
            b"<D:propfind xmlns:D='DAV:'><D:prop/>",
            b"<D:propfind xmlns:D='DAV:'><D:prop></D:propfind></D:prop>",
            b"<D:propfind xmlns:D='DAV:'><D:prop/></E:propfind>",
            b"<D:propfind><D:prop/></D:propfind>",
            b"<D:propfind xmlns:D='DAV:'><D:prop/><D:allprop/></D:propfind>",
            b"<D:propfind xmlns:D='DAV:'><E:prop/></D:propfind>",
            b"<a xmlns='DAV:'/>",
            b"<D:propfind xmlns:D='DAV:'><D:prop><e:f xmlns:e=''/></D:prop></D:propfind>",
            b"<propfind xmlns='DAV:'><allprop/></propfind><propfind xmlns='DAV:'/>",
            b"<!DOCTYPE a [<!ENTITY b 'c'>]><propfind xmlns='DAV:'><allprop/></propfind>",
            b"<!DOCTYPE a SYSTEM 'file:///etc/passwd'><propfind xmlns='DAV:'><allprop/></propfind>",
        ] {
            assert_eq!(propfind(body), Err(BadQuestion), "{}", body.escape_ascii());
        }
    }

    #[test]
    fn depth_and_number_are_bounded() {
        let deep = format!(
            "<propfind xmlns='DAV:'>{}{}</propfind>",
            "<a>".repeat(2000),
            "</a>".repeat(2000)
        );
        assert_eq!(propfind(deep.as_bytes()), Err(BadQuestion));
        let mut many = String::from("<propfind xmlns='DAV:'><prop>");
        for number in 0..100 {
            many.push_str(&format!("<p{number}/>"));
        }
        many.push_str("</prop></propfind>");
        assert_eq!(propfind(many.as_bytes()), Err(BadQuestion));
    }

    #[test]
    fn seeded_garbage_never_panics() {
        let base = b"<?xml version=\"1.0\"?><D:propfind xmlns:D=\"DAV:\" xmlns='u'><D:prop><D:getetag/><b c='d'>\
            <!-- e --></b></D:prop></D:propfind>";
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..5000 {
            let mut bytes = base.to_vec();
            for _ in 0..3 {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                let at = (state >> 33) as usize % bytes.len();
                bytes[at] = b"<>/:='\"!?&[]x \0\xff"[(state >> 24) as usize % 16];
            }
            // Any verdict will do; what counts is that there is one.
            let _ = propfind(&bytes);
            let _ = proppatch(&bytes);
        }
    }
}
