//! The live properties of RFC 4918 §15, as far as a file system knows them.

use crate::escape::Escaped;
use crate::http::content_type;
use crate::http::date::{Civil, HttpDate};
use crate::http::head::ETag;
use alloc::string::String;
use core::fmt::Write as _;

/// A property that this server computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "RFC 4918 §15 describes each")]
pub enum Live {
    CreationDate,
    DisplayName,
    GetContentLength,
    GetContentType,
    GetEtag,
    GetLastModified,
    ResourceType,
    SupportedLock,
}

impl Live {
    /// All of them.
    pub const ALL: [Live; 8] = [
        Live::CreationDate,
        Live::DisplayName,
        Live::GetContentLength,
        Live::GetContentType,
        Live::GetEtag,
        Live::GetLastModified,
        Live::ResourceType,
        Live::SupportedLock,
    ];

    /// Its name in the namespace `DAV:`.
    pub fn name(self) -> &'static str {
        match self {
            Live::CreationDate => "creationdate",
            Live::DisplayName => "displayname",
            Live::GetContentLength => "getcontentlength",
            Live::GetContentType => "getcontenttype",
            Live::GetEtag => "getetag",
            Live::GetLastModified => "getlastmodified",
            Live::ResourceType => "resourcetype",
            Live::SupportedLock => "supportedlock",
        }
    }

    /// The one of that name.
    pub fn named(name: &str) -> Option<Live> {
        Live::ALL.into_iter().find(|live| live.name() == name)
    }

    /// Whether such a file has it: a collection has no length, type and tag of its own.
    pub fn is_of(self, facts: &Facts<'_>) -> bool {
        let of_bytes = matches!(
            self,
            Live::GetContentLength | Live::GetContentType | Live::GetEtag
        );
        match self {
            Live::CreationDate => facts.created.is_some(),
            _ => !(of_bytes && facts.is_collection),
        }
    }

    /// Writes its value.
    pub fn write(self, out: &mut String, facts: &Facts<'_>) {
        // Writing into a String fails only if a formatter of ours does, and ours do not.
        let _ = match self {
            Live::CreationDate => {
                let at = Civil::from_unix(facts.created.unwrap_or(facts.tag.modified.0));
                // RFC 3339.
                write!(
                    out,
                    "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
                    at.year, at.month, at.day, at.hour, at.minute, at.second
                )
            }
            Live::DisplayName => write!(out, "{}", Escaped(facts.name)),
            Live::GetContentLength => write!(out, "{}", facts.tag.size),
            Live::GetContentType => write!(out, "{}", content_type::of(facts.name)),
            Live::GetEtag => write!(out, "{}", facts.tag),
            Live::GetLastModified => write!(out, "{}", HttpDate(facts.tag.modified.0)),
            Live::ResourceType if facts.is_collection => out.write_str("<D:collection/>"),
            // No locks: an empty list (RFC 4918 §15.10).
            Live::ResourceType | Live::SupportedLock => Ok(()),
        };
    }
}

/// What is known of a file.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The last part of its path.
    pub name: &'a [u8],
    /// Whether it is a directory.
    pub is_collection: bool,
    /// Its version, size and time.
    pub tag: ETag,
    /// When it was made, in seconds since 1970, if the file system knows.
    pub created: Option<i64>,
}
