//! Records that cannot be written or read.

use std::os::unix::fs::symlink;

use super::*;

#[test]
fn what_cannot_be_written_is_not_given_out() {
    let home = Home::new();
    let dids = home.dids();
    let own = dids.create(Network::Regtest, None).unwrap();
    let before = home.files();
    // As a disk that is full: the file cannot be made.
    fs::write(home.path(FIRST).join("updates"), "").unwrap();
    let error = dids
        .sign_update(&change(&own, add_service("a")))
        .unwrap_err();
    assert!(
        matches!(error, DidsError::Record(RecordError::Io { .. })),
        "{error}"
    );
    assert!(error.to_string().contains("/updates"), "{error}");
    fs::remove_file(home.path(FIRST).join("updates")).unwrap();
    assert_eq!(home.files(), before);
    // A DID without a record is nobody's.
    fs::remove_dir_all(home.path(FIRST)).unwrap();
    let error = dids
        .sign_update(&change(&own, add_service("a")))
        .unwrap_err();
    assert!(
        matches!(error, DidsError::Record(RecordError::Unknown { .. })),
        "{error}"
    );
    assert!(home.files().is_empty());
}

#[test]
fn a_crash_leaves_nothing_that_hinders() {
    let home = Home::new();
    let dids = home.dids();
    // The folder was made, the file not yet named.
    fs::create_dir_all(home.path(FIRST)).unwrap();
    assert_eq!(list(&dids), [""; 0]);
    fs::write(home.path(FIRST).join(".new-key.json"), "{\"pa").unwrap();
    assert_eq!(list(&dids), [""; 0]);
    let own = dids.create(Network::Regtest, None).unwrap();
    assert_eq!(list(&dids), [FIRST]);
    let names = fs::read_dir(home.path(FIRST)).unwrap();
    assert_eq!(names.count(), 1, "the rest of the first attempt is gone");
    let folder = home.path(FIRST).join("updates");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join(".new-2-ab.json"), "{").unwrap();
    let known = dids.records().updates(&own.did).unwrap();
    assert!(known.records.is_empty() && known.problems.is_empty());
}

#[test]
fn damaged_and_foreign_files_are_named_and_hide_nothing() {
    let home = Home::new();
    let dids = home.dids();
    let own = dids.create(Network::Regtest, None).unwrap();
    let good = dids
        .sign_update(&change(&own, add_service("good")))
        .unwrap();
    let bad = dids.sign_update(&change(&own, add_service("bad"))).unwrap();
    let folder = home.path(FIRST).join("updates");
    let content = fs::read(&bad.file).unwrap();
    let hash = |content: &[u8]| hex::encode(Sha256::digest(content));
    let mut flipped = content.clone();
    let place = flipped.iter().rposition(|byte| *byte == b'b').unwrap();
    flipped[place] = b'c';
    let huge = vec![b' '; json::Limits::UPDATE.bytes + 1];
    let cases: [(PathBuf, &[u8], &str); 7] = [
        (bad.file.clone(), &flipped, "got content with the hash"),
        (bad.file.clone(), &content[..content.len() / 2], "the end"),
        (bad.file.clone(), b"", "the end"),
        (bad.file.clone(), &huge, "more than 262144 bytes"),
        (
            folder.join("notes.txt"),
            b"",
            "expected a file <version>-<64 hex digits>.json",
        ),
        (
            folder.join(format!("3-{}.json", hash(&content))),
            &content,
            "got an update to version 2, expected version 3",
        ),
        (
            folder.join(format!("2-{}.json", hash(b"{}"))),
            b"{}",
            "got nothing at /proof",
        ),
    ];
    for (path, found, words) in cases {
        fs::write(&path, found).unwrap();
        let known = dids.records().updates(&own.did).unwrap();
        assert!(known.records.contains(&good.update), "{words}");
        let [problem] = known.problems.as_slice() else {
            panic!("{words}: {:?}", known.problems);
        };
        let problem = problem.to_string();
        assert!(
            problem.starts_with(&path.display().to_string()),
            "{problem}"
        );
        assert!(problem.contains(words), "{problem}");
        // It is not written over, and what it stands for is refused.
        if path == bad.file {
            let error = dids.sign_update(&change(&own, add_service("bad")));
            assert!(error.is_ok_and(|again| again.update != bad.update));
            let second = dids.records().updates(&own.did).unwrap();
            for update in second
                .records
                .iter()
                .filter(|update| **update != good.update)
            {
                let name = format!("2-{}.json", update.id().to_hex());
                fs::remove_file(folder.join(name)).unwrap();
            }
            assert_eq!(fs::read(&path).unwrap(), found);
            fs::write(&path, &content).unwrap();
        } else {
            fs::remove_file(&path).unwrap();
        }
    }
    // Neither links nor folders are followed.
    let link = folder.join(format!("4-{}.json", "0".repeat(64)));
    symlink("/dev/zero", &link).unwrap();
    fs::create_dir(folder.join(format!("5-{}.json", "0".repeat(64)))).unwrap();
    let known = dids.records().updates(&own.did).unwrap();
    assert_eq!((known.records.len(), known.problems.len()), (2, 2));
    assert!(
        known.problems[0]
            .to_string()
            .contains("expected a regular file")
    );
}

#[test]
fn a_damaged_did_is_named_and_hides_no_other() {
    let home = Home::new();
    let dids = home.dids();
    dids.create(Network::Regtest, None).unwrap();
    let second = dids.create(Network::Regtest, None).unwrap();
    fs::write(home.path("notes.txt"), "").unwrap();
    fs::create_dir(home.path("did:btcr2:k1qqqq")).unwrap();
    let found = dids.records().dids().unwrap();
    assert_eq!((found.records.len(), found.problems.len()), (2, 2));
    for problem in &found.problems {
        let problem = problem.to_string();
        assert!(
            problem.contains("expected the folder of a did:btcr2 identifier"),
            "{problem}"
        );
    }
    // Another DID's key in the place of this one's.
    let file = home.path(FIRST).join("key.json");
    fs::copy(home.path(SECOND).join("key.json"), &file).unwrap();
    let error = dids.get(&FIRST.parse().unwrap()).unwrap_err();
    assert!(
        error.to_string().starts_with(&file.display().to_string()),
        "{error}"
    );
    assert!(error.to_string().contains(FIRST_KEY), "{error}");
    assert_eq!(dids.get(&second.did).unwrap(), second);
    let error = dids.create(Network::Regtest, Some(0)).unwrap_err();
    assert!(
        error.to_string().starts_with(&file.display().to_string()),
        "{error}"
    );
}

#[test]
fn there_are_so_many_records_and_no_more() {
    let home = Home::new();
    let dids = home.dids();
    let folder = home.path("keys");
    fs::create_dir_all(&folder).unwrap();
    for number in 0..MAX_KEYS {
        fs::write(folder.join(format!("{number}.json")), "").unwrap();
    }
    let error = dids.new_key(Network::Regtest, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{} holds more than expected: at most {MAX_KEYS} records",
            folder.display()
        )
    );
    fs::write(folder.join("one-more.json"), "").unwrap();
    let error = dids.records().public_keys().unwrap_err();
    assert!(
        error.to_string().contains("at most 4096 records"),
        "{error}"
    );
}

#[test]
fn records_of_another_seed_sign_nothing() {
    let home = Home::new();
    let own = home.dids().create(Network::Regtest, None).unwrap();
    let other = seed(&format!("{}vote", "zoo ".repeat(23)));
    let dids = Dids::new(home.0.path(), other, BtcNetwork::Regtest);
    let error = dids
        .sign_update(&change(&own, add_service("a")))
        .unwrap_err();
    assert!(matches!(error, DidsError::WrongSeed { .. }), "{error}");
    assert!(error.to_string().contains("m/1643'/1'/0'"), "{error}");
    assert_eq!(dids.records().count_updates(&own.did).unwrap(), 0);
}
