use super::*;
use alloc::string::ToString;
use proptest::prelude::*;

fn parse(line: &str) -> (Config, Vec<String>) {
    Config::parse(line.as_bytes(), &[])
}

#[test]
fn an_empty_line_is_the_default() {
    let (config, complaints) = parse("  \t ");
    assert_eq!(config, Config::default());
    assert!(complaints.is_empty());
    assert_eq!(config.mounts_or_root(), [MountSpec::root()]);
}

#[test]
fn every_key_is_understood() {
    let (config, complaints) = parse(
        "memlimit=3m mount=ld0:/:ffs:ro,log mount=ld1:/data ip=10.0.2.15/24,10.0.2.2 \
         hostname=files.example loglevel=debug",
    );
    assert!(complaints.is_empty(), "{complaints:?}");
    assert_eq!(config.memlimit, Some(3 << 20));
    assert_eq!(config.hostname, "files.example");
    assert_eq!(config.loglevel, LevelFilter::Debug);
    assert_eq!(
        config.ip,
        IpConfig::Static {
            addr: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
        }
    );
    assert_eq!(config.mounts.len(), 2);
    assert_eq!(config.mounts[0].fstype.as_deref(), Some("ffs"));
    assert_eq!(config.mounts[0].options, "ro,log");
    assert_eq!(config.mounts[1].path, "/data");
    assert_eq!(config.mounts[1].fstype, None);
}

#[test]
fn what_is_wrong_is_reported_with_the_known_keys_and_leaves_the_default() {
    for line in [
        "memlimit=",
        "memlimit=1x",
        "memlimit=-5",
        "memlimit=99999999999999999999",
        "memlimit=99999999999g",
        "mount=ld0",
        "mount=:/",
        "mount=ld0:relative",
        "ip=10.0.0.1",
        "ip=10.0.0.1/33",
        "ip=10.0.0.1/0",
        "ip=300.0.0.1/8",
        "ip=10.0.0.1/8,",
        "ip=224.0.0.1/8",
        "ip=",
        "hostname=",
        "hostname=a_b",
        "loglevel=loud",
        "root=/dev/sda1",
        "quiet",
        "=5",
        "\u{7f}é=1",
    ] {
        let (config, complaints) = parse(line);
        assert_eq!(complaints.len(), 1, "{line}");
        assert!(complaints[0].contains(KNOWN_KEYS), "{line}");
        assert_eq!(config, Config::default(), "{line}");
    }
}

#[test]
fn a_word_that_is_not_utf_8_is_reported_printably() {
    let (_, complaints) = Config::parse(b"hostname=\xff\x1b[2J", &[]);
    assert_eq!(complaints.len(), 1);
    assert!(complaints[0].is_ascii() && !complaints[0].contains('\x1b'));
}

#[test]
fn a_programs_own_keys_are_handed_to_it() {
    let (config, complaints) = Config::parse(b"port=8080 verbose", &["port", "verbose"]);
    assert!(complaints.is_empty());
    assert_eq!(
        config.rest,
        [
            ("port".to_string(), "8080".to_string()),
            ("verbose".to_string(), String::new())
        ]
    );
}

#[test]
fn sizes_have_suffixes_in_powers_of_1024() {
    for (text, bytes) in [
        ("0", Some(0)),
        ("131072", Some(131_072)),
        ("512k", Some(512 << 10)),
        ("512K", Some(512 << 10)),
        ("8m", Some(8 << 20)),
        ("2G", Some(2 << 30)),
        ("k", None),
        ("", None),
        ("1 k", None),
        ("+1", None),
    ] {
        assert_eq!(parse_size(text.as_bytes()), bytes, "{text}");
    }
}

#[test]
fn the_early_look_finds_the_same_memory_limit() {
    for line in [
        "memlimit=1m",
        "a=b memlimit=1m memlimit=2m",
        "memlimit=x",
        "",
    ] {
        assert_eq!(memlimit(line.as_bytes()), parse(line).0.memlimit, "{line}");
    }
}

proptest! {
    #[test]
    fn no_command_line_panics(line in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = memlimit(&line);
        let _ = Config::parse(&line, &[]);
    }

    #[test]
    fn no_line_of_known_keys_panics(line in "((memlimit|mount|ip|hostname|loglevel)=[0-9a-z:/.,]{0,12} ){0,6}") {
        let (_, complaints) = Config::parse(line.as_bytes(), &[]);
        prop_assert!(complaints.len() <= 6);
    }
}
