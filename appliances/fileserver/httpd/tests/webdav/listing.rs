//! PROPFIND and PROPPATCH.

use crate::client::{Client, attach};
use crate::status;
use rump::fs;

#[test]
fn depth_says_how_much_is_told() {
    let _process = attach();
    fs::create_dir("/told").unwrap();
    fs::create_dir("/told/sub dir").unwrap();
    assert_eq!(status("PUT", "/told/a&b.txt", &[], b"12345"), 201);
    let mut client = Client::connect();
    let zero = client.ask("PROPFIND", "/told", &["Depth: 0"], b"");
    assert_eq!(zero.status, 207, "{}", zero.head);
    assert_eq!(zero.header("content-location"), Some("/told/"));
    assert_eq!(zero.text().matches("<D:response>").count(), 1);
    let one = client.ask("PROPFIND", "/told/", &["Depth: 1"], b"").text();
    assert_eq!(one.matches("<D:response>").count(), 3);
    for part in [
        "<D:href>/told/</D:href>",
        "<D:href>/told/sub%20dir/</D:href>",
        "<D:href>/told/a%26b.txt</D:href>",
        "<D:displayname>a&amp;b.txt</D:displayname>",
        "<D:getcontentlength>5</D:getcontentlength>",
    ] {
        assert!(one.contains(part), "{part} in {one}");
    }
    for fields in [&["Depth: infinity"][..], &[]] {
        let refused = client.ask("PROPFIND", "/told", fields, b"");
        assert_eq!(refused.status, 403);
        assert!(refused.text().contains("propfind-finite-depth"));
    }
    let depth = ["Depth: 0"];
    assert_eq!(client.ask("PROPFIND", "/none", &depth, b"").status, 404);
    let slash = client.ask("PROPFIND", "/told/a%26b.txt/", &depth, b"");
    assert_eq!(slash.status, 404);
}

#[test]
fn a_body_says_which_properties_and_a_bad_one_is_400() {
    let _process = attach();
    assert_eq!(status("PUT", "/asked", &[], b"x"), 201);
    let mut client = Client::connect();
    let mut ask = |body: &str| client.ask("PROPFIND", "/asked", &["Depth: 0"], body.as_bytes());
    let some = ask(
        "<?xml version='1.0'?><propfind xmlns='DAV:'><prop><getcontentlength/><x xmlns='u'/></prop></propfind>",
    )
    .text();
    assert!(some.contains("<D:getcontentlength>1</D:getcontentlength>"));
    assert!(some.contains("<x xmlns=\"u\"/>") && some.contains("404 Not Found"));
    assert!(!some.contains("getetag"));
    for bad in ["<", "<a/>", "<!DOCTYPE a [<!ENTITY b 'c'>]><a/>", "\0"] {
        assert_eq!(ask(bad).status, 400, "{bad}");
    }
    let long = format!("<propfind xmlns='DAV:'>{}", " ".repeat(20_000));
    assert_eq!(ask(&long).status, 413);
}

#[test]
fn properties_are_not_changed_and_that_is_said_of_each() {
    let _process = attach();
    assert_eq!(status("PUT", "/patched", &[], b"x"), 201);
    let body = b"<propertyupdate xmlns='DAV:'><set><prop><getetag>1</getetag><y xmlns='u'>2</y></prop></set>\
        </propertyupdate>";
    let mut client = Client::connect();
    let answer = client.ask("PROPPATCH", "/patched", &[], body);
    assert_eq!(answer.status, 207);
    assert_eq!(answer.text().matches("403 Forbidden").count(), 2);
    assert_eq!(client.ask("PROPPATCH", "/none", &[], body).status, 404);
    assert_eq!(client.ask("PROPPATCH", "/patched", &[], b"").status, 400);
}

#[test]
fn thousands_of_entries_are_told_of_once_each() {
    let _process = attach();
    fs::create_dir("/thousands").unwrap();
    for number in 0..2000 {
        fs::File::create(format!("/thousands/file number {number}")).unwrap();
    }
    let mut client = Client::connect();
    let text = client
        .ask("PROPFIND", "/thousands", &["Depth: 1"], b"")
        .text();
    assert_eq!(text.matches("<D:response>").count(), 2001);
    for number in 0..2000 {
        let href = format!("<D:href>/thousands/file%20number%20{number}</D:href>");
        assert_eq!(text.matches(&href).count(), 1);
    }
    assert_eq!(client.ask("DELETE", "/thousands", &[], b"").status, 204);
}
