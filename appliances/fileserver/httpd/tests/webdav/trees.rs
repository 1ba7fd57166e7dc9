//! MKCOL, DELETE, COPY and MOVE.

use crate::client::{Client, attach};
use crate::{contents, names, status};
use rump::fs;

fn to(path: &str) -> String {
    format!("Destination: http://disk{path}")
}

/// A tree of some width and depth; answers how many files it has.
fn plant(root: &str) -> usize {
    fs::create_dir(root).unwrap();
    let mut dir = String::from(root);
    for level in 0..20 {
        for number in 0..3 {
            fs::File::create(format!("{dir}/f{number}")).unwrap();
        }
        let name = format!("{dir}/with some name {level}");
        fs::create_dir(&name).unwrap();
        fs::create_dir(format!("{dir}/empty")).unwrap();
        dir = name;
    }
    for number in 0..600 {
        let file = fs::File::create(format!("{dir}/many {number}")).unwrap();
        file.write(format!("{number}").as_bytes()).unwrap();
    }
    fs::symlink("nowhere", format!("{dir}/link")).unwrap();
    20 * 3 + 600
}

fn count(root: &str) -> usize {
    let mut files = 0;
    let mut left = vec![String::from(root)];
    while let Some(dir) = left.pop() {
        for name in names(&dir) {
            let path = format!("{dir}/{name}");
            let facts = fs::symlink_metadata(&path).unwrap();
            files += usize::from(facts.is_file());
            if facts.is_dir() {
                left.push(path);
            }
        }
    }
    files
}

#[test]
fn collections_are_made_where_there_is_room_for_them() {
    let _process = attach();
    assert_eq!(status("MKCOL", "/col", &[], b""), 201);
    assert_eq!(status("MKCOL", "/col/", &[], b""), 405);
    assert_eq!(status("MKCOL", "/", &[], b""), 405);
    assert_eq!(status("MKCOL", "/col/a/b", &[], b""), 409);
    assert_eq!(status("MKCOL", "/col/a/", &[], b"<x/>"), 415);
    assert_eq!(status("MKCOL", "/col/a/", &[], b""), 201);
    assert_eq!(status("PUT", "/col/f", &[], b"x"), 201);
    assert_eq!(status("MKCOL", "/col/f", &[], b""), 405);
    assert_eq!(status("MKCOL", "/col/f/g", &[], b""), 409);
}

#[test]
fn a_tree_is_copied_whole_and_deleted_whole() {
    let _process = attach();
    fs::create_dir("/wood").unwrap();
    let files = plant("/wood/tree");
    let there = to("/wood/tree%20copy/");
    assert_eq!(status("COPY", "/wood/tree/", &[&there], b""), 201);
    assert_eq!(count("/wood/tree copy"), files);
    let deep = (0..20).fold(String::from("/wood/tree copy"), |path, level| {
        format!("{path}/with some name {level}")
    });
    assert_eq!(contents(&format!("{deep}/many 599")).unwrap(), b"599");
    assert_eq!(fs::read_link(format!("{deep}/link")).unwrap(), b"nowhere");
    let keep = [&*there, "Overwrite: F"];
    assert_eq!(status("COPY", "/wood/tree", &keep, b""), 412);
    let flat = [&*there, "Depth: 0"];
    assert_eq!(status("COPY", "/wood/tree", &flat, b""), 204);
    assert!(names("/wood/tree copy").is_empty());
    assert_eq!(status("DELETE", "/wood/tree", &["Depth: 0"], b""), 400);
    assert_eq!(status("DELETE", "/wood/tree/", &[], b""), 204);
    assert!(fs::symlink_metadata("/wood/tree").is_err());
    assert_eq!(status("DELETE", "/wood/tree", &[], b""), 404);
    assert_eq!(status("DELETE", "/", &[], b""), 403);
    assert!(!names("/wood").iter().any(|name| name.contains("#rump")));
}

#[test]
fn a_file_goes_where_it_is_sent() {
    let _process = attach();
    assert_eq!(status("MKCOL", "/go", &[], b""), 201);
    assert_eq!(status("PUT", "/go/a", &[], b"a"), 201);
    assert_eq!(status("PUT", "/go/b", &[], b"b"), 201);
    let go = |method: &str, from: &str, fields: &[&str]| status(method, from, fields, b"");
    assert_eq!(go("COPY", "/go/a", &[&to("/go/c")]), 201);
    assert_eq!(go("MOVE", "/go/c", &[&to("/go/d")]), 201);
    assert_eq!(go("MOVE", "/go/d", &[&to("/go/b"), "Overwrite: F"]), 412);
    assert_eq!(go("MOVE", "/go/d", &[&to("/go/b")]), 204);
    assert_eq!(contents("/go/b").unwrap(), b"a");
    assert_eq!(names("/go"), ["a", "b"]);
    assert_eq!(go("COPY", "/go/a", &[]), 400);
    assert_eq!(go("COPY", "/go/a", &["Destination: http://other/x"]), 502);
    assert_eq!(go("COPY", "/go/a", &[&to("/go/../x")]), 400);
    assert_eq!(go("COPY", "/go/a", &[&to("/go/a")]), 403);
    assert_eq!(go("COPY", "/go/a", &[&to("/go/x/y")]), 409);
    assert_eq!(go("COPY", "/go/a", &[&to("/.%23rump-1")]), 403);
    assert_eq!(go("COPY", "/go/x", &[&to("/go/y")]), 404);
    assert_eq!(go("COPY", "/go", &[&to("/go/in")]), 403);
    assert_eq!(go("MOVE", "/go", &[&to("/go/in")]), 403);
    assert_eq!(go("MOVE", "/go/a", &[&to("/go")]), 403);
    assert_eq!(go("MOVE", "/", &[&to("/go/root")]), 403);
    assert_eq!(go("COPY", "/go", &[&to("/gone"), "Depth: 1"]), 400);
    assert_eq!(names("/go"), ["a", "b"]);
}

#[test]
fn a_tree_takes_the_place_of_another_and_of_a_file() {
    let _process = attach();
    for dir in ["/swap", "/swap/one", "/swap/two", "/swap/one/sub"] {
        assert_eq!(status("MKCOL", dir, &[], b""), 201);
    }
    assert_eq!(status("PUT", "/swap/one/sub/x", &[], b"x"), 201);
    assert_eq!(status("PUT", "/swap/two/y", &[], b"y"), 201);
    assert_eq!(status("PUT", "/swap/three", &[], b"z"), 201);
    assert_eq!(status("COPY", "/swap/one", &[&to("/swap/two")], b""), 204);
    assert_eq!(names("/swap/two"), ["sub"]);
    assert_eq!(status("MOVE", "/swap/one", &[&to("/swap/three")], b""), 204);
    assert_eq!(contents("/swap/three/sub/x").unwrap(), b"x");
    assert_eq!(
        status("MOVE", "/swap/three/sub/x", &[&to("/swap/two")], b""),
        204
    );
    assert_eq!(contents("/swap/two").unwrap(), b"x");
    let mut client = Client::connect();
    assert_eq!(client.ask("GET", "/swap/one", &[], b"").status, 404);
    assert!(!names("/swap").iter().any(|name| name.contains("#rump")));
}
