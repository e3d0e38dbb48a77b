use std::{cell::Cell, fs, path::PathBuf};

use proptest::prelude::*;

use super::{Expected, VerifyError, What, files, open_all, verify, verify_open};
use crate::audit::{
    journal::tests::{place, write},
    record::Hash,
};

/// The lines of a log in several files, without newlines.
fn log() -> Vec<Vec<Vec<u8>>> {
    let (_folder, file) = place();
    write(&file, 70);
    let lines = |path: &PathBuf| {
        let text = fs::read(path).expect("is read");
        let lines: Vec<_> = text.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
        lines[..lines.len() - 1].to_vec()
    };
    files(&[file]).expect("are found").iter().map(lines).collect()
}

/// What is said of a log with these `lines` in each file: the place of the first fault, if there is one, from 0.
fn fault(lines: &[Vec<Vec<u8>>], expected: Expected) -> Option<(usize, usize)> {
    let folder = tempfile::tempdir().expect("a folder");
    let name = |file: usize| folder.path().join(format!("audit.jsonl.{file:012}"));
    for (file, lines) in lines.iter().enumerate() {
        let text: Vec<u8> = lines.iter().flat_map(|line| [line.as_slice(), b"\n"].concat()).collect();
        fs::write(name(file), text).expect("is written");
    }
    let files = files(&[folder.path().to_owned()]).expect("one log");
    match verify(&files, expected) {
        Ok(_) => None,
        Err(VerifyError::Fault { file, line, .. }) => {
            let place = files.iter().position(|one| *one == file).expect("one of them");
            Some((place, usize::try_from(line).expect("few") - 1))
        }
        Err(other) => panic!("{other}"),
    }
}

/// The place of the line that is the one with `number`, of all files.
fn locate(lines: &[Vec<Vec<u8>>], number: usize) -> (usize, usize) {
    let mut number = number;
    for (file, lines) in lines.iter().enumerate() {
        if number < lines.len() {
            return (file, number);
        }
        number -= lines.len();
    }
    panic!("there are not so many");
}

fn count(lines: &[Vec<Vec<u8>>]) -> usize {
    lines.iter().map(Vec::len).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn an_edited_line_is_found(number: prop::sample::Index, byte: prop::sample::Index, value in 32_u8..127) {
        let mut lines = log();
        // Nothing vouches for the last line.
        let (file, line) = locate(&lines, number.index(count(&lines) - 1));
        let edited = &mut lines[file][line];
        let byte = byte.index(edited.len());
        prop_assume!(edited[byte] != value);
        edited[byte] = value;
        prop_assert_eq!(fault(&lines, Expected::default()), Some((file, line)));
    }

    #[test]
    fn a_removed_line_is_found(number: prop::sample::Index) {
        let mut lines = log();
        let (file, line) = locate(&lines, number.index(count(&lines) - 1));
        lines[file].remove(line);
        // What is there now, or at the beginning of the next file.
        let found = if line < lines[file].len() { (file, line) } else { (file + 1, 0) };
        prop_assert_eq!(fault(&lines, Expected::default()), Some(found));
    }

    #[test]
    fn a_line_that_was_moved_is_found(from: prop::sample::Index, to: prop::sample::Index) {
        let mut lines = log();
        let (file, line) = locate(&lines, from.index(count(&lines) - 1));
        let moved = lines[file].remove(line);
        let (to_file, to_line) = locate(&lines, to.index(count(&lines)));
        prop_assume!((file, line) != (to_file, to_line));
        prop_assume!((file + 1, 0) != (to_file, to_line) || line != lines[file].len());
        lines[to_file].insert(to_line, moved);
        let gone = if line < lines[file].len() { (file, line) } else { (file + 1, 0) };
        // What a file may begin with may be where the first one begins: only what comes next says that it did not.
        let is_beginning = line == 0 && (to_file, to_line) == (0, 0);
        let first = if is_beginning { (0, 1) } else { gone.min((to_file, to_line)) };
        // Of two neighbours that have changed places, it is the first.
        prop_assert_eq!(fault(&lines, Expected::default()), Some(first));
    }

    #[test]
    fn a_line_that_was_put_in_is_found(from: prop::sample::Index, to: prop::sample::Index, junk: Option<String>) {
        let mut lines = log();
        let (file, line) = locate(&lines, from.index(count(&lines)));
        let junk = junk.map(|text| text.replace('\n', " ").into_bytes());
        let more = junk.unwrap_or_else(|| lines[file][line].clone());
        let (to_file, to_line) = locate(&lines, to.index(count(&lines)));
        // Before itself it is what stands there already: then it is the second that is one too many.
        // What a file may begin with may also be where the first one begins.
        let may_stand = more == lines[to_file][to_line]
            || (to_file, to_line) == (0, 0) && lines.iter().any(|lines| lines[0] == more);
        let found = if may_stand { (to_file, to_line + 1) } else { (to_file, to_line) };
        lines[to_file].insert(to_line, more);
        prop_assert_eq!(fault(&lines, Expected::default()), Some(found));
    }

    #[test]
    fn an_end_that_was_cut_off_is_found_by_whoever_knows_a_hash(kept: prop::sample::Index) {
        let mut lines = log();
        let last = Hash::of(lines.last().and_then(|lines| lines.last()).expect("a line"));
        let (file, line) = locate(&lines, 1 + kept.index(count(&lines) - 2));
        lines.truncate(file + 1);
        lines[file].truncate(line);
        lines.retain(|lines| !lines.is_empty());
        prop_assert_eq!(fault(&lines, Expected::default()), None, "the chain alone does not tell");
        let file = lines.len() - 1;
        let expected = Expected { last: Some(last), any: Vec::new() };
        prop_assert_eq!(fault(&lines, expected), Some((file, lines[file].len() - 1)));
    }
}

#[test]
fn a_missing_file_is_found() {
    let lines = log();
    assert!(lines.len() >= 4);
    let mut without = lines.clone();
    without.remove(2);
    assert_eq!(fault(&without, Expected::default()), Some((2, 0)));
    assert_eq!(fault(&lines, Expected::default()), None);
    // The oldest are removed in time: that is no fault.
    assert_eq!(fault(&lines[2..], Expected::default()), None);
}

#[test]
fn a_hash_that_was_noted_must_be_there() {
    let (_folder, file) = place();
    write(&file, 40);
    let files = files(&[file]).expect("are found");
    let text = fs::read(&files[1]).expect("is read");
    let noted = Hash::of(text.split(|byte| *byte == b'\n').next().expect("a line"));
    let expect = |any| verify(&files, Expected { last: None, any });
    assert!(expect(vec![noted, noted]).is_ok());
    let unseen = Hash::of(b"another");
    assert!(matches!(expect(vec![noted, unseen]), Err(VerifyError::Unseen(hash)) if hash == unseen));
}

#[test]
fn what_is_no_log_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_owned();
    assert!(matches!(files(std::slice::from_ref(&path)), Err(VerifyError::NotOne { found: 0, .. })));
    let file = path.join("a");
    fs::write(&file, "").expect("is written");
    assert!(matches!(
        verify(&files(std::slice::from_ref(&file)).expect("one"), Expected::default()),
        Err(VerifyError::Empty(_))
    ));
    fs::write(&file, "no log\n".repeat(1000)).expect("is written");
    let told = verify(std::slice::from_ref(&file), Expected::default());
    assert!(matches!(told, Err(VerifyError::Fault { line: 1, what: What::Unfinished, .. })), "{told:?}");
    fs::write(path.join("b"), "").expect("is written");
    assert!(matches!(files(std::slice::from_ref(&path)), Err(VerifyError::NotOne { found: 2, .. })));
    assert!(matches!(verify(&[path.join("c")], Expected::default()), Err(VerifyError::Unreadable { .. })));
}

#[test]
fn a_log_that_goes_to_another_file_meanwhile_is_as_it_was_written() {
    let (folder, file) = place();
    write(&file, 70);
    let logs = || files(std::slice::from_ref(&file));
    let before = logs().expect("are found");
    // The newest two as they were before the last of them was begun.
    let (newest, older) = (before.last().expect("is there").clone(), before[before.len() - 2].clone());
    let aside = folder.path().join("aside");
    fs::create_dir(&aside).expect("is made");
    fs::rename(&newest, aside.join("newest")).expect("is moved");
    fs::rename(&older, &newest).expect("is moved");
    let looks = Cell::new(0);
    let list = || {
        let found = logs();
        looks.set(looks.get() + 1);
        if looks.get() == 1 {
            fs::rename(&newest, &older).expect("is put away");
            fs::rename(aside.join("newest"), &newest).expect("is begun");
        }
        found
    };
    let verified = verify_open(open_all(list).expect("are open"), Expected::default()).expect("nobody has changed it");
    assert_eq!((verified.files.len(), looks.get()), (before.len(), 3));
}
