use proptest::prelude::*;
use std::fs;

use super::*;

const NOW: u64 = 1_800_000_000;

struct Fixture {
    dir: tempfile::TempDir,
    store: MetadataStore,
    address: Address,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::parse("abcdefghi@chat.example.org").unwrap();
        fs::create_dir(dir.path().join(address.as_str())).unwrap();
        let store = MetadataStore::new(MailStore::new(dir.path()));
        Self { dir, store, address }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join(self.address.as_str()).join(FILE)
    }

    fn with_file(text: &str) -> Self {
        let fixture = Self::new();
        fs::write(fixture.path(), text).unwrap();
        fixture
    }

    fn tokens(&self, now: u64) -> String {
        self.store.tokens(&self.address, now).unwrap().join(" ")
    }

    fn add(&self, token: &str, now: u64) {
        self.store.add(&self.address, token, now).unwrap();
    }

    fn file(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }
}

#[test]
fn tokens_are_kept_until_they_expire() {
    let f = Fixture::new();
    assert_eq!(f.tokens(NOW), "");
    assert!(!f.path().exists(), "a lookup creates nothing");
    f.add("one", NOW);
    f.add("two", NOW + DAY);
    assert_eq!(f.tokens(NOW + DAY), "one two");
    assert_eq!(f.tokens(NOW + VALID), "two");
    assert_eq!(f.file(), format!("{{\"devicetoken\":{{\"two\":{}}}}}", NOW + DAY));
}

#[test]
fn setting_a_token_again_renews_it_once_a_day() {
    let f = Fixture::new();
    f.add("one", NOW);
    let before = f.file();
    f.add("one", NOW + DAY - 1);
    assert_eq!(f.file(), before);
    f.add("one", NOW + DAY);
    assert_eq!(f.tokens(NOW + VALID), "one");
}

#[test]
fn the_list_of_old_relays_becomes_an_object() {
    let f = Fixture::with_file(r#"{"devicetoken":["b","a",7,"with space"],"other":[1]}"#);
    assert_eq!(f.tokens(NOW), "a b");
    assert_eq!(
        f.file(),
        format!(r#"{{"devicetoken":{{"a":{NOW},"b":{NOW}}},"other":[1]}}"#)
    );
    assert_eq!(f.tokens(NOW + VALID), "");
}

#[test]
fn what_the_reference_wrote_is_read() {
    let f = Fixture::with_file(&format!(
        r#"{{"devicetoken": {{"old": {}, "fraction": {}.5, "future": {}, "text": "x"}}}}"#,
        NOW - VALID,
        NOW - 5,
        NOW + CLOCK_SKEW,
    ));
    assert_eq!(f.tokens(NOW), "fraction");
    for broken in ["", "{", "[]", "null", r#"{"devicetoken": 5}"#] {
        let f = Fixture::with_file(broken);
        assert_eq!(f.tokens(NOW), "", "{broken}");
        f.add("new", NOW);
        assert_eq!(f.tokens(NOW), "new", "{broken}");
    }
}

#[test]
fn the_oldest_token_gives_way() {
    let f = Fixture::new();
    for number in 0..MAX_TOKENS as u64 + 3 {
        f.add(&format!("token-{number}"), NOW + number);
    }
    let tokens = f.store.tokens(&f.address, NOW + 100).unwrap();
    assert_eq!(tokens.len(), MAX_TOKENS);
    assert_eq!(tokens.first().unwrap(), "token-3");
    assert_eq!(tokens.last().unwrap(), "token-34");
}

#[test]
fn only_tokens_of_existing_accounts_are_stored() {
    let f = Fixture::new();
    let long = "x".repeat(MAX_TOKEN + 1);
    for bad in ["", "a b", "a\nb", "a\tb", "a\u{0}b", "a\u{a0}b", &long] {
        let error = f.store.add(&f.address, bad, NOW).unwrap_err();
        assert!(matches!(error, StoreError::Malformed), "{bad:?}");
    }
    f.add(&"x".repeat(MAX_TOKEN), NOW);
    let stranger = Address::parse("stranger1@chat.example.org").unwrap();
    let error = f.store.add(&stranger, "token", NOW).unwrap_err();
    assert!(matches!(error, StoreError::NoAccount));
    assert_eq!(f.store.tokens(&stranger, NOW).unwrap().len(), 0);
    f.store.remove(&stranger, "token", NOW).unwrap();
    assert!(!f.dir.path().join(stranger.as_str()).exists());
}

#[test]
fn removing_and_clearing() {
    let f = Fixture::new();
    f.add("one", NOW);
    f.add("two", NOW);
    f.store.remove(&f.address, "one", NOW).unwrap();
    assert_eq!(f.tokens(NOW), "two");
    f.store.clear(&f.address, NOW).unwrap();
    assert_eq!(f.file(), "{}");
}

#[test]
fn threads_lose_nothing_of_each_other() {
    let f = Fixture::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let f = &f;
            scope.spawn(move || {
                for number in 0..8 {
                    f.add(&format!("{thread}-{number}"), NOW);
                }
            });
        }
    });
    assert_eq!(f.store.tokens(&f.address, NOW).unwrap().len(), MAX_TOKENS);
}

#[test]
fn a_write_that_fails_changes_nothing() {
    let f = Fixture::new();
    f.add("one", NOW);
    let before = f.file();
    // Stands for a disk without space: the unfinished file cannot be created.
    fs::create_dir(f.path().with_file_name(UNFINISHED)).unwrap();
    let error = f.store.add(&f.address, "two", NOW).unwrap_err();
    assert!(matches!(error, StoreError::Io(_)), "{error}");
    assert_eq!(f.file(), before);
}

proptest! {
    #[test]
    fn any_file_can_be_read_and_added_to(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let f = Fixture::new();
        fs::write(f.path(), text).unwrap();
        f.add("new", NOW);
        prop_assert!(f.tokens(NOW).ends_with("new"));
    }
}
