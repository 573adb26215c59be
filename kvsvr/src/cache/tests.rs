use std::collections::BTreeMap;

use super::*;

/// Splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// What a test asks the cache for.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Value(Vec<u8>, u32),
    Absent,
}

fn get(cache: &RecordCache, scope: &CacheScope, h: u64, key: &[u8]) -> Option<Found> {
    cache.get(scope, h, key, |cached| match cached {
        Cached::Value { value, expiry } => Found::Value(value.to_vec(), expiry),
        Cached::Absent => Found::Absent,
    })
}

/// Everything that follows from scope and key, so that a mix-up shows.
fn value_of(scope: u64, h: u64) -> (Vec<u8>, u32) {
    let mut random = Random(scope ^ h.rotate_left(7));
    let len = match random.below(50) {
        0 => 4000 + random.below(4000),
        1..10 => 100 + random.below(400),
        _ => random.below(60),
    };
    ((0..len).map(|_| random.next().to_le_bytes()[0]).collect(), random.next().to_le_bytes()[0].into())
}

#[test]
fn what_is_found_is_what_was_inserted_under_that_key_in_that_scope() {
    let cache = RecordCache::new(2 << 20).expect("memory");
    let mut scopes: Vec<_> = (0..3).map(|number| (number, cache.scope())).collect();
    let mut next = 3;
    let mut random = Random(1);
    let (mut hits, mut rounds) = (0, 0);
    for step in 0..400_000_u64 {
        if step % 20_000 == 19_999 {
            // A flip: one content goes, another one comes.
            scopes.remove(0);
            scopes.push((next, cache.scope()));
            next += 1;
        }
        let (number, scope) = &scopes[usize::try_from(random.below(3)).expect("small")];
        // Few hashes are hot, and several keys share each.
        let range = 1 << random.below(16);
        let h = random.below(range) << 48;
        let key = random.below(3).to_le_bytes();
        let (value, expiry) = value_of(*number, h ^ u64::from(key[0]));
        let absent = value.len() % 7 == 3;
        match get(&cache, scope, h, &key) {
            Some(found) => {
                hits += 1;
                assert_eq!(found, if absent { Found::Absent } else { Found::Value(value, expiry) }, "step {step}");
            }
            None if absent => cache.insert(scope, h, &key, Cached::Absent),
            None => cache.insert(scope, h, &key, Cached::Value { value: &value, expiry }),
        }
        rounds += 1;
    }
    let counts = cache.counts();
    assert_eq!((counts.hits, counts.hits + counts.misses), (hits, rounds));
    assert!(hits > rounds / 3, "hot records are found: {counts:?}");
    assert!(counts.evictions > 0 && counts.inserts == counts.records + counts.evictions, "{counts:?}");
}

#[test]
fn memory_is_what_was_configured_and_all_of_it_is_used() {
    let bytes = 8 << 20;
    let cache = RecordCache::new(bytes).expect("memory");
    let scope = cache.scope();
    for h in 0..500_000_u64 {
        cache.insert(&scope, h, &[], Cached::Value { value: &h.to_le_bytes(), expiry: 0 });
    }
    assert_eq!(get(&cache, &scope, 499_999, &[]), Some(Found::Value(499_999_u64.to_le_bytes().to_vec(), 0)));
    let counts = cache.counts();
    assert!(counts.memory_bytes <= bytes && counts.memory_bytes > bytes * 99 / 100, "{counts:?}");
    assert_eq!(counts.used_bytes, counts.records * 36);
    assert!(counts.used_bytes > bytes * 90 / 100, "{counts:?}");
}

#[test]
fn records_read_once_do_not_push_out_those_in_use() {
    let cache = RecordCache::new(4 << 20).expect("memory");
    let scope = cache.scope();
    let value = [7; 100];
    let kept = Cached::Value { value: &value, expiry: 0 };
    let hot = 10_000_u64;
    for round in 0..5 {
        for h in 0..hot {
            if get(&cache, &scope, h, &[]).is_none() {
                cache.insert(&scope, h, &[], kept);
            }
        }
        // A scan of several times the cache.
        for h in 0..30_000 {
            cache.insert(&scope, 1 << 40 | round << 20 | h, &[], kept);
            if h % 3 == 0 {
                get(&cache, &scope, h % hot, &[]);
            }
        }
    }
    let there = (0..hot).filter(|h| get(&cache, &scope, *h, &[]).is_some()).count() as u64;
    assert!(there > hot * 9 / 10, "{there} of {hot} survive");
}

#[test]
fn a_dropped_scope_is_gone_and_its_room_is_used_again() {
    let cache = RecordCache::new(1 << 20).expect("memory");
    let value = [1; 40];
    let kept = Cached::Value { value: &value, expiry: 0 };
    let old = cache.scope();
    for h in 0..10_000 {
        cache.insert(&old, h, &[], kept);
        for _ in 0..3 {
            get(&cache, &old, h, &[]);
        }
    }
    drop(old);
    let new = cache.scope();
    assert!((0..10_000).all(|h| get(&cache, &new, h, &[]).is_none()), "another content");
    // However often it was used, what is dropped makes room before what is live.
    let live = 4_000_u64;
    for h in 0..live {
        cache.insert(&new, h, &[], kept);
        get(&cache, &new, h, &[]);
    }
    let there = (0..live).filter(|h| get(&cache, &new, *h, &[]).is_some()).count();
    assert_eq!(there, 4_000);
}

#[test]
fn a_cache_of_no_bytes_holds_nothing() {
    let cache = RecordCache::new(0).expect("nothing");
    assert!(!cache.is_on());
    let scope = cache.scope();
    cache.insert(&scope, 1, b"key", Cached::Absent);
    assert_eq!(get(&cache, &scope, 1, b"key"), None);
    assert_eq!(cache.counts(), CacheCounts::default());
}

#[test]
fn a_value_too_large_for_the_cache_is_passed_by() {
    let cache = RecordCache::new(1 << 20).expect("memory");
    let scope = cache.scope();
    let value = vec![1; 1 << 20];
    cache.insert(&scope, 1, &[], Cached::Value { value: &value, expiry: 0 });
    assert_eq!(get(&cache, &scope, 1, &[]), None);
    cache.insert(&scope, 2, &[], Cached::Value { value: &value[..8000], expiry: 0 });
    assert_eq!(get(&cache, &scope, 2, &[]), Some(Found::Value(vec![1; 8000], 0)));
    assert_eq!(cache.counts().records, 1);
}

/// The hottest records stay: not far from what the best fixed choice would give.
#[test]
fn a_skewed_load_finds_nearly_what_the_best_choice_would() {
    let keys = 200_000_u64;
    let weights: Vec<f64> = (1..=keys).map(|rank| 1.0 / (rank as f64).powf(0.99)).collect();
    let sums: Vec<f64> = weights
        .iter()
        .scan(0.0, |sum, weight| {
            *sum += weight;
            Some(*sum)
        })
        .collect();
    let total = *sums.last().expect("keys");
    let cache = RecordCache::new(1 << 20).expect("memory");
    let scope = cache.scope();
    let mut random = Random(5);
    let mut seen = BTreeMap::new();
    let (mut hits, rounds) = (0_u64, 600_000_u64);
    for round in 0..rounds {
        let point = random.next() as f64 / u64::MAX as f64 * total;
        let h = (sums.partition_point(|sum| *sum < point) as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        *seen.entry(h).or_insert(0_u64) += 1;
        match get(&cache, &scope, h, &[]) {
            Some(_) if round >= rounds / 2 => hits += 1,
            Some(_) => {}
            None => cache.insert(&scope, h, &[], Cached::Value { value: &[0; 60], expiry: 0 }),
        }
    }
    let held = usize::try_from(cache.counts().records).expect("few");
    let best = sums[held - 1] / total;
    let found = hits as f64 / (rounds / 2) as f64;
    assert!(found > best * 0.9, "found {found:.3} of the reads; the {held} hottest records are {best:.3} of them");
}

#[test]
fn several_threads_see_whole_records() {
    let cache = RecordCache::new(1 << 20).expect("memory");
    let scope = cache.scope();
    std::thread::scope(|threads| {
        for seed in 0..4 {
            let (cache, scope) = (&cache, &scope);
            threads.spawn(move || {
                let mut random = Random(seed);
                for _ in 0..100_000 {
                    let range = 1 << random.below(15);
                    let h = random.below(range);
                    let (value, expiry) = value_of(0, h);
                    match get(cache, scope, h, &[]) {
                        Some(found) => assert_eq!(found, Found::Value(value, expiry)),
                        None => cache.insert(scope, h, &[], Cached::Value { value: &value, expiry }),
                    }
                }
            });
        }
    });
}
