use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const UNIX: u64 = 1_800_000_000;

const LIMITS: Limits = Limits {
    requests: 4,
    repeats: 2,
    per_account: 2,
    entries: 100,
};

/// A schedule with its clocks; items are numbers.
struct Fixture {
    schedule: Schedule<u32>,
    start: Instant,
    seconds: f64,
}

impl Fixture {
    fn new() -> Self {
        Self {
            schedule: Schedule::new(LIMITS),
            start: Instant::now(),
            seconds: 0.0,
        }
    }

    fn now(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.seconds)
    }

    fn unix(&self) -> u64 {
        UNIX + self.seconds as u64
    }

    fn key(name: &str) -> Key {
        let (account, token) = name.split_at(1);
        Key {
            account: u64::from(account.as_bytes()[0]),
            token: token.parse().unwrap(),
        }
    }

    /// A message for a device such as `a1`, as the notifier takes it; returns what became of it.
    fn message(&mut self, name: &str, item: u32) -> String {
        let (key, start, now) = (Self::key(name), self.unix(), self.now());
        match self.schedule.offer(key, start, now) {
            Offer::Merged => "merged".to_owned(),
            Offer::Store => format!("{:?}", self.schedule.insert(key, item, start, now)),
        }
    }

    /// Everything that may be sent now.
    fn send(&mut self) -> Vec<u32> {
        let now = self.now();
        std::iter::from_fn(|| self.schedule.next(now))
            .map(|job| job.item)
            .collect()
    }

    fn finish(&mut self, name: &str, end: End) -> Finished<u32> {
        let (now, unix) = (self.now(), self.unix());
        self.schedule.finish(Self::key(name), end, now, unix)
    }

    fn after(&mut self, seconds: f64) -> &mut Self {
        self.seconds += seconds;
        self
    }

    fn seconds_to_wake(&self) -> f64 {
        (self.schedule.wake_at().unwrap() - self.now()).as_secs_f64()
    }
}

fn discarded(items: &[u32]) -> Finished<u32> {
    Finished {
        discard: items.to_vec(),
        given_up: false,
    }
}

#[test]
fn a_burst_becomes_one_request() {
    let mut f = Fixture::new();
    assert_eq!(f.message("a1", 1), "Taken(None)");
    assert_eq!(f.after(0.1).message("a1", 2), "merged");
    assert_eq!(f.send(), [0_u32; 0]);
    assert_eq!(f.after(0.15).send(), [1]);
    assert_eq!(f.finish("a1", End::Done), discarded(&[1]));
    assert!(f.schedule.is_empty());
    assert_eq!(f.schedule.wake_at(), None);
}

#[test]
fn messages_during_a_request_make_one_more() {
    let mut f = Fixture::new();
    f.message("a1", 1);
    assert_eq!(f.after(1.0).send(), [1]);
    assert_eq!(f.message("a1", 2), "Taken(None)");
    assert_eq!(f.message("a1", 3), "merged");
    assert_eq!(f.after(1.0).send(), [0_u32; 0]);
    assert_eq!(f.finish("a1", End::Done), discarded(&[1]));
    assert_eq!(f.after(0.25).send(), [2]);
    assert_eq!(f.finish("a1", End::Done), discarded(&[2]));
}

#[test]
fn failures_are_repeated_after_powers_of_eight_seconds_and_given_up() {
    let mut f = Fixture::new();
    f.message("a1", 1);
    f.seconds += 0.25;
    for delay in [8.0, 64.0, 512.0, 4096.0] {
        assert_eq!(f.send(), [1]);
        assert_eq!(f.finish("a1", End::Failed(None)), discarded(&[]));
        assert_eq!(f.seconds_to_wake(), delay);
        assert_eq!(f.after(delay - 0.5).send(), [0_u32; 0]);
        f.seconds += 0.5;
    }
    assert_eq!(f.send(), [1]);
    let end = f.finish("a1", End::Failed(None));
    assert_eq!((end.discard, end.given_up), (vec![1], true));
    assert!(f.schedule.is_empty());
}

#[test]
fn a_server_that_asks_for_time_gets_it_until_the_deadline() {
    let mut f = Fixture::new();
    f.message("a1", 1);
    f.seconds += 0.25;
    // Many more times than a failure would be repeated.
    for _ in 0..17 {
        assert_eq!(f.send(), [1]);
        let end = f.finish("a1", End::Failed(Some(Duration::from_secs(1000))));
        assert_eq!(end, discarded(&[]));
        assert_eq!(f.seconds_to_wake(), 1000.0);
        f.seconds += 1000.0;
    }
    f.send();
    let end = f.finish("a1", End::Failed(Some(Duration::from_secs(DEADLINE + 1))));
    assert!(end.given_up);
}

#[test]
fn not_even_a_new_message_hurries_a_server_that_asks_for_time() {
    let mut f = Fixture::new();
    f.message("a1", 1);
    f.after(1.0).send();
    f.finish("a1", End::Failed(Some(Duration::from_secs(1000))));
    assert_eq!(f.after(100.0).message("a1", 2), "Taken(Some(1))");
    assert_eq!(f.seconds_to_wake(), 900.0);
}

#[test]
fn a_new_message_does_not_wait_for_the_delay_of_an_old_one() {
    let mut f = Fixture::new();
    f.message("a1", 1);
    for delay in [0.25, 8.0, 64.0] {
        assert_eq!(f.after(delay).send(), [1]);
        f.finish("a1", End::Failed(None));
    }
    assert_eq!(f.seconds_to_wake(), 512.0);
    assert_eq!(f.after(3.0).message("a1", 2), "Taken(Some(1))");
    assert_eq!(f.seconds_to_wake(), 5.0, "but not faster than every 8 s");
    assert_eq!(f.after(5.0).send(), [2]);
    f.finish("a1", End::Failed(None));
    assert_eq!(f.seconds_to_wake(), 64.0);
    assert_eq!(
        f.after(30.0).message("a1", 3),
        "merged",
        "of nearly the same time"
    );
    assert_eq!(f.send(), [2]);
}

#[test]
fn a_message_during_a_failing_request_counts_from_its_own_time() {
    let mut f = Fixture::new();
    f.message("a1", 1);
    assert_eq!(f.after(1.0).send(), [1]);
    f.after(17_999.0).message("a1", 2);
    assert_eq!(f.finish("a1", End::Failed(None)), discarded(&[1]));
    assert_eq!(f.after(8.0).send(), [2]);
}

#[test]
fn a_device_that_is_gone_hears_nothing_more() {
    let mut f = Fixture::new();
    f.message("a1", 1);
    f.after(1.0).send();
    f.message("a1", 2);
    assert_eq!(f.finish("a1", End::Gone), discarded(&[1, 2]));
    assert!(f.schedule.is_empty());
}

#[test]
fn accounts_take_turns() {
    let mut f = Fixture::new();
    for (item, name) in (1..).zip(["a1", "a2", "a3", "a4", "a5", "b1", "c1"]) {
        f.message(name, item);
    }
    // Four requests at once, two for one account.
    assert_eq!(f.after(1.0).send(), [1, 6, 7, 2]);
    f.finish("b1", End::Done);
    assert_eq!(f.send(), [0_u32; 0], "the others are all of account a");
    f.finish("a1", End::Done);
    assert_eq!(f.send(), [3]);
}

#[test]
fn what_hangs_leaves_room_for_what_is_new() {
    let mut f = Fixture::new();
    for (item, name) in (1..).zip(["a1", "b1", "c1", "d1"]) {
        f.message(name, item);
    }
    f.after(1.0).send();
    for name in ["a1", "b1", "c1", "d1"] {
        f.finish(name, End::Failed(None));
    }
    assert_eq!(f.after(8.0).send().len(), 2, "repeated ones take half");
    f.message("e1", 5);
    f.message("f1", 6);
    assert_eq!(f.after(1.0).send(), [5, 6]);
}

#[test]
fn what_is_found_on_disk_twice_is_sent_once() {
    let mut f = Fixture::new();
    let now = f.now();
    let key = Fixture::key("a1");
    let mut insert = |item, start| f.schedule.insert(key, item, start, now);
    assert_eq!(insert(1, UNIX - 50), Inserted::Taken(None));
    assert_eq!(insert(1, UNIX - 50), Inserted::Taken(None));
    assert_eq!(insert(2, UNIX - 90), Inserted::Covered);
    assert_eq!(insert(3, UNIX - 10), Inserted::Taken(Some(1)));
    assert_eq!(f.after(1.0).send(), [3]);
}

#[test]
fn a_full_schedule_takes_no_more_devices() {
    let mut f = Fixture::new();
    for number in 0..100 {
        assert_eq!(f.message(&format!("a{number}"), number), "Taken(None)");
    }
    assert_eq!(f.message("b1", 200), "Full");
    assert_eq!(f.message("a1", 201), "merged");
    assert!(!f.schedule.has_room());
}

proptest! {
    /// Whatever happens in whatever order: limits hold, no item is discarded twice or sent after it was, and in the
    /// end every message was covered by a request that began after it.
    #[test]
    fn nothing_is_lost(steps in prop::collection::vec((0_u8..10, 0_usize..6, 0.0..20.0_f64), 1..150)) {
        let names = ["a1", "a2", "a3", "b1", "b2", "c1"];
        let mut f = Fixture::new();
        let mut next_item = 0;
        // Items that exist, with their device; the time of the newest message of a device; of its last request.
        let mut stored: BTreeMap<u32, &str> = BTreeMap::new();
        let mut heard: BTreeMap<&str, f64> = BTreeMap::new();
        let mut asked: BTreeMap<&str, f64> = BTreeMap::new();
        let mut sending: BTreeMap<&str, u32> = BTreeMap::new();
        let mut rounds = 0;
        let mut steps = steps.into_iter();
        loop {
            let step = steps.next();
            let (action, index, pause) = step.unwrap_or((9, 0, 20.0));
            let name = names[index];
            match action {
                0..=3 => {
                    let item = next_item;
                    next_item += 1;
                    let (key, start, now) = (Fixture::key(name), f.unix(), f.now());
                    heard.insert(name, f.seconds);
                    if f.schedule.offer(key, start, now) == Offer::Store {
                        stored.insert(item, name);
                        match f.schedule.insert(key, item, start, now) {
                            Inserted::Taken(Some(old)) => prop_assert!(stored.remove(&old).is_some()),
                            Inserted::Taken(None) => {}
                            Inserted::Covered => prop_assert!(stored.remove(&item).is_some()),
                            Inserted::Full => prop_assert!(false),
                        }
                    }
                }
                4..=8 if step.is_some() => {
                    if sending.remove(name).is_some() {
                        let end = match action {
                            4 => End::Failed(None),
                            5 => End::Failed(Some(Duration::from_secs(3))),
                            _ => End::Done,
                        };
                        let finished = f.finish(name, end);
                        prop_assert!(!finished.given_up || action == 4);
                        if finished.given_up {
                            heard.remove(name);
                        }
                        for item in finished.discard {
                            prop_assert!(stored.remove(&item).is_some());
                        }
                    }
                }
                _ => {
                    f.seconds += pause;
                    if step.is_none() {
                        for name in std::mem::take(&mut sending).into_keys() {
                            for item in f.finish(name, End::Done).discard {
                                prop_assert!(stored.remove(&item).is_some());
                            }
                        }
                    }
                }
            }
            let now = f.now();
            while let Some(job) = f.schedule.next(now) {
                let name = stored[&job.item];
                prop_assert_eq!(Fixture::key(name), job.key);
                asked.insert(name, f.seconds);
                prop_assert!(sending.insert(name, job.item).is_none());
            }
            prop_assert!(sending.len() <= LIMITS.requests);
            for account in ["a", "b", "c"] {
                let count = sending.keys().filter(|name| name.starts_with(account)).count();
                prop_assert!(count <= LIMITS.per_account);
            }
            if step.is_none() && f.schedule.is_empty() {
                break;
            }
            rounds += 1;
            prop_assert!(rounds < 5000, "it never ends");
        }
        prop_assert!(stored.is_empty());
        for (name, time) in heard {
            prop_assert!(asked[name] >= time, "{} was not told", name);
        }
    }
}
