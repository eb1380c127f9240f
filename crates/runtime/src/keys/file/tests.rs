use super::*;

/// scrypt at 2^1: these tests are about files, not about the price of guessing.
fn seed_file(dir: &tempfile::TempDir) -> SeedFile {
    SeedFile {
        path: dir.path().join("seed"),
        work_factor: 1,
    }
}

fn passphrase(text: &str) -> (tempfile::TempDir, Unlock) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("passphrase");
    write_new(&path, text.as_bytes()).unwrap();
    // No agent of this name has a variable, and tests have no terminal that anybody looks at.
    let unlock = Unlock::new("beacon-nobody", Some(path), None, false).unwrap();
    (dir, unlock)
}

fn phrase_of(seed: &Seed) -> String {
    seed.line().to_string()
}

/// The words of 32 zero bytes.
fn zeros() -> String {
    format!("{}art\n", "abandon ".repeat(23))
}

/// As `age --passphrase` writes it without `--armor`; the passphrase is `correct horse`.
fn binary(words: &str) -> Vec<u8> {
    let mut recipient = scrypt::Recipient::new(SecretString::from("correct horse"));
    recipient.set_work_factor(1);
    age::encrypt(&recipient, words.as_bytes()).unwrap()
}

fn write(path: &Path, content: &[u8]) {
    let _ = fs::remove_file(path);
    write_new(path, content).unwrap();
}

#[test]
fn a_new_seed_is_encrypted_private_and_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = seed_file(&dir);
    let (_dir, unlock) = passphrase("correct horse");
    let made = file.load_or_create(&unlock).unwrap();
    assert_eq!(
        phrase_of(&made),
        phrase_of(&file.load_or_create(&unlock).unwrap())
    );
    assert_eq!(
        fs::metadata(file.path()).unwrap().permissions().mode() & 0o7777,
        0o600
    );
    assert!(file.is_encrypted().unwrap());
    let text = fs::read_to_string(file.path()).unwrap();
    assert!(
        text.starts_with("-----BEGIN AGE ENCRYPTED FILE-----\n"),
        "{text}"
    );
    for word in phrase_of(&made)
        .split_whitespace()
        .filter(|word| word.len() > 4)
    {
        assert!(!text.contains(word), "{word} is in the file");
    }
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        1,
        "nothing is left beside it"
    );
    assert_ne!(phrase_of(&made), phrase_of(&Seed::generate().unwrap()));
}

#[test]
fn the_real_work_factor_is_used_and_is_what_age_reads() {
    let dir = tempfile::tempdir().unwrap();
    let file = SeedFile::new(dir.path().join("seed"));
    let (_dir, unlock) = passphrase("correct horse");
    let seed = file.load_or_create(&unlock).unwrap();
    // Read by the library's plain function, without this module.
    let bytes = fs::read(file.path()).unwrap();
    let identity = scrypt::Identity::new(SecretString::from("correct horse"));
    let words = age::decrypt(&identity, &bytes).unwrap();
    assert_eq!(words, phrase_of(&seed).as_bytes());
    let mut cheap = scrypt::Identity::new(SecretString::from("correct horse"));
    cheap.set_max_work_factor(WORK_FACTOR - 1);
    assert!(matches!(
        age::decrypt(&cheap, &bytes),
        Err(DecryptError::ExcessiveWork {
            required: WORK_FACTOR,
            ..
        })
    ));
}

/// Pinned, since homes with such files exist: the words of 32 zero bytes, as version 0.1 encrypts them (work factor 2^10).
const GOLDEN: &str = "\
-----BEGIN AGE ENCRYPTED FILE-----
YWdlLWVuY3J5cHRpb24ub3JnL3YxCi0+IHNjcnlwdCBOTVcwQzhuNkJIM3BvUm53
M1pDMDJnIDEwCnU5akJ3dTJ4Y2doNENlMGlBU2Y4aEp5cnhUL3NFcWRFUkZQNFVW
QjRueTAKLS0tIHFJU3NEdzBBUXNQb0lCbm02VnFXK0lZNUsvWHhDMXp0alkxejcx
T1RIYUkKj2tWI9y0Mr44U/HCMYzu19bgWdgRC+lrHZNS2m76FGNmIu2zYvlWT1oz
Ewpzq71XLhmGB/JclpBNpZFr7xgknKK8yqNCq3sA202s+g/1UA5oUP8sUDqUN9G0
9tzhfmXuJb+1xvw+Qcv72ZC0bD6nNaJKhp9bU7rzC7ArjwayWt6j7saPq2pJNyxF
vEU3g6oZni9h8+84w+TTglkFHMrJRrkqtKEG+1VgWXzxFsRNRrMxv1Jnr8UtNm4q
urTsOTimilA1BMzW2p3w4jFElRRh3/jayYFBD98OIMvg7Q==
-----END AGE ENCRYPTED FILE-----
";

#[test]
fn a_file_of_an_older_version_opens_in_both_forms_of_age() {
    let dir = tempfile::tempdir().unwrap();
    let file = seed_file(&dir);
    let (_dir, unlock) = passphrase("correct horse");
    for content in [GOLDEN.as_bytes().to_vec(), binary(&zeros())] {
        write(file.path(), &content);
        assert!(file.is_encrypted().unwrap());
        assert_eq!(phrase_of(&file.load(&unlock).unwrap()), zeros());
    }
}

#[test]
fn a_wrong_passphrase_is_said_so_as_often_as_it_comes_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let file = seed_file(&dir);
    let (_right, right) = passphrase("correct horse");
    let (_wrong, wrong) = passphrase("incorrect horse");
    file.load_or_create(&right).unwrap();
    let before = fs::read(file.path()).unwrap();
    for _ in 0..20 {
        let error = file.load_or_create(&wrong).unwrap_err();
        assert!(matches!(error, KeyError::WrongPassphrase { .. }), "{error}");
        assert!(error.is_locked());
        assert!(!error.to_string().contains("horse"), "{error}");
    }
    assert_eq!(fs::read(file.path()).unwrap(), before);
    file.load(&right).unwrap();
    let error = file.load(&Unlock::unencrypted()).unwrap_err();
    assert!(
        matches!(error, KeyError::Passphrase(_)) && error.is_locked(),
        "{error}"
    );
}

#[test]
fn a_file_that_was_cut_or_altered_anywhere_never_opens_and_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    let file = seed_file(&dir);
    let (_dir, unlock) = passphrase("correct horse");
    let seed = file.load_or_create(&unlock).unwrap();
    let armored = fs::read(file.path()).unwrap();
    let binary = binary(&phrase_of(&seed));
    // Every place of the header's beginning and of the end, and some in between.
    let places = |len: usize| (0..len).filter(move |at| at % 5 == 0 || *at < 30 || at + 20 > len);
    for whole in [binary.as_slice(), armored.trim_ascii_end()] {
        for end in places(whole.len()) {
            write(file.path(), &whole[..end]);
            let error = file.load(&unlock).unwrap_err();
            assert!(
                matches!(error, KeyError::Damaged { .. } | KeyError::Malformed { .. }),
                "{end}: {error}"
            );
        }
    }
    // Every byte of the binary form matters: the armour around it has some freedom.
    for place in places(binary.len()) {
        let mut altered = binary.clone();
        altered[place] ^= 1;
        write(file.path(), &altered);
        file.load(&unlock).unwrap_err();
    }
}

#[test]
fn what_is_wrong_with_a_file_is_named_and_no_word_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let file = seed_file(&dir);
    let good = zeros();
    let cases: [(Vec<u8>, PhraseFault); 7] = [
        (Vec::new(), PhraseFault::Empty),
        (b"\n".to_vec(), PhraseFault::Words(0)),
        (b"abandon art".to_vec(), PhraseFault::Words(2)),
        (
            good.replace("art", "zoologist").into_bytes(),
            PhraseFault::Unknown(24),
        ),
        (
            good.replace("art", "abandon").into_bytes(),
            PhraseFault::Checksum,
        ),
        (vec![0xff; 100], PhraseFault::NotText),
        (vec![b' '; MAX_BYTES + 1], PhraseFault::NotText),
    ];
    for (content, fault) in cases {
        write(file.path(), &content);
        let error = file.load(&Unlock::unencrypted()).unwrap_err();
        assert!(
            matches!(error, KeyError::Malformed { fault: got, .. } if got == fault),
            "{error}"
        );
        assert!(!error.to_string().contains("zoologist"), "{error}");
        assert!(!error.is_locked());
    }
    let (_dir, unlock) = passphrase("correct horse");
    let header = |factor| {
        format!(
            "age-encryption.org/v1\n-> scrypt AAAAAAAAAAAAAAAAAAAAAA {factor}\n{}\n",
            "A".repeat(43)
        )
    };
    let mac = format!("--- {}\n{}", "A".repeat(43), "x".repeat(16));
    let key = "age-encryption.org/v1\n-> X25519 AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\n";
    let cases = [
        (header(21) + &mac, AgeFault::Work(21)),
        (key.to_owned() + &mac, AgeFault::NotPassphrase),
        ("age-encryption.org/v2\n".to_owned(), AgeFault::NotWhole),
        (
            "-----BEGIN AGE ENCRYPTED FILE-----\nnonsense".to_owned(),
            AgeFault::NotWhole,
        ),
    ];
    for (content, fault) in cases {
        write(file.path(), content.as_bytes());
        let error = file.load(&unlock).unwrap_err();
        assert!(
            matches!(error, KeyError::Damaged { fault: got, .. } if got == fault),
            "{error}, expected {fault}"
        );
        assert!(error.to_string().contains("backup"), "{error}");
    }
    let folder = SeedFile::new(dir.path().to_owned());
    assert!(matches!(
        folder.load(&unlock),
        Err(KeyError::Malformed { .. })
    ));
}

#[test]
fn an_exposed_seed_is_refused_with_the_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let file = seed_file(&dir);
    file.load_or_create(&Unlock::unencrypted()).unwrap();
    for mode in [0o640, 0o604, 0o660] {
        fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
        let error = file.load(&Unlock::unencrypted()).unwrap_err();
        assert!(
            matches!(error, KeyError::Exposed { mode: got, .. } if got == mode),
            "{error}"
        );
        assert!(error.to_string().contains("chmod 600"), "{error}");
    }
}

#[test]
fn a_seed_is_never_overwritten_by_another() {
    let dir = tempfile::tempdir().unwrap();
    let file = seed_file(&dir);
    file.load_or_create(&Unlock::unencrypted()).unwrap();
    let before = fs::read(file.path()).unwrap();
    let error = file.create(&Seed::generate().unwrap(), None).unwrap_err();
    assert!(matches!(error, KeyError::Exists { .. }), "{error}");
    assert_eq!(fs::read(file.path()).unwrap(), before);
}

#[test]
fn an_old_plain_seed_is_encrypted_changed_and_decrypted_with_the_same_keys() {
    let dir = tempfile::tempdir().unwrap();
    let file = seed_file(&dir);
    let words = zeros();
    write(file.path(), words.as_bytes());
    let (_one, one) = passphrase("correct horse");
    let (_two, two) = passphrase("battery staple");
    let seed = file.load(&Unlock::unencrypted()).unwrap();
    file.replace(&seed, one.for_new().unwrap().as_ref())
        .unwrap();
    file.load(&two).unwrap_err();
    let seed = file.load(&one).unwrap();
    file.replace(&seed, two.for_new().unwrap().as_ref())
        .unwrap();
    file.load(&one).unwrap_err();
    let seed = file.load(&two).unwrap();
    file.replace(&seed, None).unwrap();
    assert_eq!(fs::read_to_string(file.path()).unwrap(), words);
    assert_eq!(
        fs::metadata(file.path()).unwrap().permissions().mode() & 0o7777,
        0o600
    );
}

/// A crash between the writing of the new file and its renaming leaves the old one, and nothing in the way of the next try.
#[test]
fn a_crash_before_the_rename_leaves_the_old_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = seed_file(&dir);
    let (_dir, unlock) = passphrase("correct horse");
    let seed = file.load_or_create(&Unlock::unencrypted()).unwrap();
    let before = fs::read(file.path()).unwrap();
    let passphrase = unlock.for_new().unwrap();
    drop(file.stage(&seed, passphrase.as_ref()).unwrap());
    assert!(
        dir.path().join("seed.new").exists(),
        "the new file was there already"
    );
    assert_eq!(fs::read(file.path()).unwrap(), before);
    assert_eq!(phrase_of(&file.load(&unlock).unwrap()), phrase_of(&seed));
    // Half a file as well, of a crash in the middle of writing.
    write(&dir.path().join("seed.new"), b"-----BEGIN AGE");
    file.replace(&seed, passphrase.as_ref()).unwrap();
    assert_eq!(phrase_of(&file.load(&unlock).unwrap()), phrase_of(&seed));
    write(&dir.path().join("seed.new"), b"words");
    file.clear_leftover().unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_first_seed_that_was_not_finished_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let file = seed_file(&dir);
    drop(file.stage(&Seed::generate().unwrap(), None).unwrap());
    assert!(!file.exists().unwrap());
    let made = file.load_or_create(&Unlock::unencrypted()).unwrap();
    assert_eq!(
        phrase_of(&made),
        phrase_of(&file.load(&Unlock::unencrypted()).unwrap())
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
