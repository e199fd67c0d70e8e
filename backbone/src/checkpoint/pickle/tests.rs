use proptest::prelude::*;

use super::*;

fn read(bytes: &[u8]) -> Result<Pickle, PickleError> {
    read_pickle(&mut Input::new(bytes), Limits::default())
}

fn read_within(bytes: &[u8], limits: Limits) -> Result<Pickle, PickleError> {
    read_pickle(&mut Input::new(bytes), limits)
}

/// A string of protocol 2.
fn text(value: &str) -> Vec<u8> {
    let mut bytes = vec![b'X'];
    bytes.extend((value.len() as u32).to_le_bytes());
    bytes.extend(value.as_bytes());
    bytes
}

/// The bytes of a pickle one after the other, between PROTO 2 and STOP.
fn program(parts: &[&[u8]]) -> Vec<u8> {
    [&[&[0x80, 2][..]], parts, &[b"."]].concat().concat()
}

#[test]
fn the_same_dictionary_is_read_from_every_protocol() {
    // pickle.dumps({"a": 1, "b": [True, 2.5, None]}, protocol) of Python 3.11.
    let dumps: [&[u8]; 4] = [
        b"(dp0\nVa\np1\nI1\nsVb\np2\n(lp3\nI01\naF2.5\naNas.",
        b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01K\x01X\x01\x00\x00\x00bq\x02]q\x03(\x88G@\x04\x00\x00\x00\x00\x00\x00Neu.",
        b"\x80\x04\x95\x1f\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94K\x01\x8c\x01b\x94]\x94(\x88G@\x04\x00\x00\x00\x00\x00\x00Neu.",
        b"\x80\x05\x95\x1f\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94K\x01\x8c\x01b\x94]\x94(\x88G@\x04\x00\x00\x00\x00\x00\x00Neu.",
    ];
    for bytes in dumps {
        let Pickle { heap, root } = read(bytes).unwrap();
        let items = heap.mapping(root).unwrap();
        assert_eq!(items.iter().map(|(key, _)| heap.text(*key).unwrap()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(heap.scalar(items[0].1).as_deref(), Some("1"));
        let list: Vec<_> = heap.sequence(items[1].1).unwrap().iter().map(|id| heap.scalar(*id)).collect();
        assert_eq!(list, [Some("true".to_owned()), Some("2.5".to_owned()), None]);
    }
}

#[test]
fn a_call_is_never_made_and_what_it_would_give_is_opaque() {
    // os.system("touch …"), as an attacker would write it.
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("witness");
    let command = text(&format!("touch {}", witness.display()));
    let Pickle { heap, root } = read(&program(&[b"cposix\nsystem\n", &command, &[0x85, b'R']])).unwrap();
    assert_eq!(heap.describe(root), "object of posix.system");
    assert!(!witness.exists());
}

#[test]
fn foreign_objects_swallow_their_state_and_keep_the_items_of_a_dictionary() {
    // yacs.config.CfgNode is a dict: NEWOBJ, SETITEM, BUILD.
    let bytes = program(&[b"cyacs.config\nCfgNode\n", &[b')', 0x81], &text("lr"), b"K\x07s", b"}", &text("x"), b"K\x01s", b"b"]);
    let Pickle { heap, root } = read(&bytes).unwrap();
    assert_eq!(heap.describe(root), "object of yacs.config.CfgNode");
    let items = heap.mapping(root).unwrap();
    assert_eq!((items.len(), heap.scalar(items[0].1).as_deref()), (1, Some("7")));
}

#[test]
fn depth_and_cycles_cost_no_recursion() {
    // A million lists, each inside the next.
    let deep = program(&[&vec![b']'; 1_000_000], &vec![b'a'; 999_999]]);
    drop(read(&deep).unwrap());
    // A list that holds itself.
    let Pickle { heap, root } = read(&program(&[b"]q\x00h\x00a"])).unwrap();
    assert_eq!(heap.sequence(root), Some(&[root][..]));
}

#[test]
fn memory_is_capped_whatever_the_pickle_asks_for() {
    let limits = Limits { objects: 100, references: 100, text: 1000 };
    // Doubling a tuple again and again, the "billion laughs" of pickles.
    let bomb = program(&[b"N", &[b'2', 0x86].repeat(200)]);
    assert!(read_within(&bomb, limits).err().unwrap().to_string().contains("more than 100"));
    let long = program(&[&text(&"x".repeat(900)), &text(&"y".repeat(900))]);
    assert!(read_within(&long, limits).err().unwrap().to_string().contains("bytes of text"));
    // A length beyond the data is an end, not an allocation.
    let claims = [&[0x80, 4, 0x8d][..], &u64::MAX.to_le_bytes(), b"abc"].concat();
    assert!(read(&claims).err().unwrap().to_string().contains("ends in the middle"));
}

#[test]
fn malformed_pickles_say_where_and_why() {
    for (bytes, reason) in [
        (&b""[..], "ends in the middle"),
        (b"\x80\x09.", "protocol 9"),
        (b"\xff", "0xff"),
        (b"a.", "too few values"),
        (b"h\x05.", "memo entry 5"),
        (b"K\x01K\x02a.", "cannot be applied to a int"),
        (b"}(K\x01u.", "key without value"),
        (b"\x82\x01.", "EXT1"),
    ] {
        let error = read(bytes).err().unwrap_or_else(|| panic!("{bytes:?} was read")).to_string();
        assert!(error.starts_with("pickle at byte ") && error.contains(reason), "{error}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let limits = Limits { objects: 1000, references: 1000, text: 10_000 };
        drop(read_within(&bytes, limits));
        // And after a valid start.
        drop(read_within(&program(&[b"(", &bytes]), limits));
    }
}
