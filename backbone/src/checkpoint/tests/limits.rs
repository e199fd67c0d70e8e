//! Files made to take long or much memory.

use std::time::{Duration, Instant};

use super::*;

/// A safetensors file with this header and without data.
fn write_header(path: &Path, header: &str) {
    std::fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
}

/// A safetensors file of `count` empty tensors.
fn many_tensors(path: &Path, count: usize) {
    let entries: Vec<String> =
        (0..count).map(|index| format!("\"t{index}\":{{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}")).collect();
    write_header(path, &format!("{{{}}}", entries.join(",")));
}

#[test]
fn a_header_of_a_million_and_a_half_tensors_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.safetensors");
    many_tensors(&path, 1_500_000);
    let begin = Instant::now();
    let error = Checkpoint::read(&path).err().unwrap().to_string();
    assert!(error.contains("many.safetensors") && error.contains("more than 200000 tensors"), "{error}");
    // 27 seconds before there was a limit.
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn as_many_tensors_as_the_limit_allows_are_read_in_seconds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("many.safetensors");
    many_tensors(&path, 100_000);
    let begin = Instant::now();
    let checkpoint = Checkpoint::read(&path).unwrap();
    assert_eq!(checkpoint.state_dict(Weights::Model).unwrap().len(), 100_000);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn a_tensor_that_stands_twice_in_a_header_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("twice.safetensors");
    let entry = "\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}";
    write_header(&path, &format!("{{{entry},{entry}}}"));
    let error = Checkpoint::read(&path).err().unwrap().to_string();
    assert!(error.contains("two tensors are called `a`"), "{error}");
}

#[test]
fn a_header_of_a_million_and_a_half_metadata_entries_is_refused_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("texts.safetensors");
    let entries: Vec<String> = (0..1_500_000).map(|index| format!("\"k{index}\":\"v\"")).collect();
    write_header(&path, &format!("{{\"__metadata__\":{{{}}}}}", entries.join(",")));
    let begin = Instant::now();
    let error = Checkpoint::read(&path).err().unwrap().to_string();
    assert!(error.contains("texts.safetensors") && error.contains("more than 10000 entries in `__metadata__`"), "{error}");
    // 20 seconds before there was a limit.
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[test]
fn a_header_beyond_the_limit_of_the_format_names_both_sizes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.safetensors");
    let file = std::fs::File::create(&path).unwrap();
    let size = 100_000_001_u64;
    std::io::Write::write_all(&mut &file, &[&size.to_le_bytes()[..], b"{"].concat()).unwrap();
    // The rest is a hole in the file.
    file.set_len(8 + size).unwrap();
    let error = Checkpoint::read(&path).err().unwrap().to_string();
    assert!(error.contains("100000001 bytes") && error.contains("allows 100000000") && !error.contains("truncated"), "{error}");
    file.set_len(1000).unwrap();
    let error = Checkpoint::read(&path).err().unwrap().to_string();
    assert!(error.contains("truncated") && error.contains("the file has 1000"), "{error}");
}

#[test]
fn a_doubled_key_of_the_metadata_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("twice.safetensors");
    for (header, part) in [
        (r#"{"__metadata__":{"config":"{}","config":"[]"}}"#, "the key `config` occurs twice"),
        (r#"{"__metadata__":{},"__metadata__":{}}"#, "the key `__metadata__` occurs twice"),
    ] {
        write_header(&path, header);
        let error = Checkpoint::read(&path).err().unwrap().to_string();
        assert!(error.contains(part), "{error}");
    }
}
