use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn unlock(source: Option<Source>, ask: Option<Ask>, unencrypted: bool) -> Unlock {
    Unlock {
        source,
        ask,
        unencrypted,
        variable: "BEACON_TEST_PASSPHRASE".to_owned(),
    }
}

fn variable(text: &str) -> Source {
    Source::Variable(Zeroizing::new(text.to_owned()))
}

fn new_passphrase(unlock: &Unlock) -> Result<Option<String>, PassphraseError> {
    let passphrase = unlock.for_new()?;
    Ok(passphrase.map(|passphrase| passphrase.expose().to_owned()))
}

fn error(unlock: &Unlock) -> String {
    new_passphrase(unlock).unwrap_err().to_string()
}

fn file(content: &[u8], mode: u32) -> (tempfile::TempDir, Unlock) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passphrase");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (dir, unlock(Some(Source::File(path)), None, false))
}

#[test]
fn a_file_gives_its_line_without_the_end_of_it() {
    for content in ["correct horse", "correct horse\n", "correct horse\r\n"] {
        let (_dir, unlock) = file(content.as_bytes(), 0o600);
        assert_eq!(
            new_passphrase(&unlock).unwrap().as_deref(),
            Some("correct horse"),
            "{content:?}"
        );
    }
    let (_dir, unlock) = file(b" spaces count ", 0o400);
    let passphrase = unlock.to_open(Path::new("seed")).unwrap();
    assert_eq!(passphrase.expose(), " spaces count ");
}

#[test]
fn a_file_that_others_can_read_is_refused_with_the_remedy() {
    for mode in [0o640, 0o604, 0o666] {
        let (_dir, unlock) = file(b"correct horse", mode);
        let error = error(&unlock);
        assert!(error.contains(&format!("got mode {mode:04o}")), "{error}");
        assert!(error.contains("chmod 600"), "{error}");
    }
}

#[test]
fn what_is_no_passphrase_is_refused_and_not_told() {
    let long = vec![b'x'; MAX_BYTES + 1];
    let longer = vec![b'x'; MAX_BYTES + 3];
    for (content, words) in [
        (b"".as_slice(), "got nothing"),
        (b"\n", "got nothing"),
        (b"first\nsecond\n", "got several lines"),
        (b"a\0b", "got several lines"),
        (&[0xff, 0xfe], "got something else than text"),
        (&long, "got more"),
        (&longer, "got more than 1026 bytes"),
    ] {
        let (_dir, unlock) = file(content, 0o600);
        let error = error(&unlock);
        assert!(error.contains(words), "{error}");
        assert!(
            !error.contains("second") && !error.contains("xxx"),
            "{error}"
        );
    }
    let missing = PathBuf::from("/nonexistent/passphrase");
    let error = error(&unlock(Some(Source::File(missing)), None, false));
    assert!(
        error.starts_with("passphrase file /nonexistent/passphrase: "),
        "{error}"
    );
}

#[test]
fn the_first_source_that_there_is_counts() {
    let never: Ask = |_| panic!("nobody is asked where a passphrase was given");
    let given = unlock(Some(variable("from the variable")), Some(never), false);
    assert_eq!(
        new_passphrase(&given).unwrap().as_deref(),
        Some("from the variable")
    );
    let opened = given.to_open(Path::new("seed")).unwrap();
    assert_eq!(opened.expose(), "from the variable");
    let asked = unlock(
        None,
        Some(|_| Ok(Zeroizing::new("typed by hand".to_owned()))),
        false,
    );
    assert_eq!(
        new_passphrase(&asked).unwrap().as_deref(),
        Some("typed by hand")
    );
    // This test has no such variable, and a configured file comes after it.
    let configured = PathBuf::from("/nonexistent/configured");
    let flag = PathBuf::from("/nonexistent/flag");
    for (flag, expected) in [
        (Some(flag), "/nonexistent/flag"),
        (None, "/nonexistent/configured"),
    ] {
        let unlock = Unlock::new("beacon-nobody", flag, Some(configured.clone()), false).unwrap();
        let error = error(&unlock);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn new_keys_without_a_passphrase_need_a_word() {
    assert!(new_passphrase(&Unlock::unencrypted()).unwrap().is_none());
    let nothing = unlock(None, None, false);
    assert!(matches!(
        nothing.check_new(),
        Err(PassphraseError::Needed { .. })
    ));
    let error = error(&nothing);
    assert!(
        error.contains("--passphrase-file or BEACON_TEST_PASSPHRASE")
            && error.contains("--unencrypted-keys"),
        "{error}"
    );
    let both = unlock(Some(variable("correct horse")), None, true);
    assert!(matches!(both.for_new(), Err(PassphraseError::Both)));
    // With a terminal the flag is enough, and nobody is asked.
    let never: Ask = |_| panic!("asked");
    assert!(
        new_passphrase(&unlock(None, Some(never), true))
            .unwrap()
            .is_none()
    );
}

#[test]
fn a_new_passphrase_is_typed_twice_and_not_too_short() {
    let different: Ask = |prompt| Ok(Zeroizing::new(format!("passphrase after {prompt}")));
    let error = new_passphrase(&unlock(None, Some(different), false)).unwrap_err();
    assert!(matches!(error, PassphraseError::Different), "{error}");
    let error = new_passphrase(&unlock(Some(variable("7 chars")), None, false)).unwrap_err();
    assert!(
        matches!(error, PassphraseError::Short { got: 7 }),
        "{error}"
    );
    // An old one may be short: the file was made with it.
    let old = unlock(Some(variable("x")), None, false);
    assert_eq!(old.to_open(Path::new("seed")).unwrap().expose(), "x");
}

#[test]
fn locked_keys_without_a_passphrase_say_how_to_open_them() {
    let error = unlock(None, None, false)
        .to_open(Path::new("home/seed"))
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "seed file home/seed is encrypted and no passphrase was given: start at a terminal, or give --passphrase-file or \
         BEACON_TEST_PASSPHRASE"
    );
    let broken: Ask = |_| Err(io::Error::other("hung up"));
    let error = unlock(None, Some(broken), false)
        .to_open(Path::new("seed"))
        .unwrap_err();
    assert!(matches!(error, PassphraseError::Terminal(_)), "{error}");
}

#[test]
fn debug_output_holds_no_passphrase() {
    let unlock = unlock(Some(variable("correct horse")), None, false);
    let shown = format!("{unlock:?} {:?}", unlock.for_new().unwrap());
    assert!(!shown.contains("horse"), "{shown}");
    assert!(shown.contains("Passphrase(redacted)"), "{shown}");
}
