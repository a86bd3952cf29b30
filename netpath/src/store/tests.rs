//! What both stores promise, and what the file refuses.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, sync::Arc};

use serde_json::json;
use tempfile::TempDir;

use super::{memory::MemoryStore, *};

async fn promises(store: &dyn Store) {
    assert_eq!(store.get("a/1").await.unwrap(), None);
    store.put("a/1", b"one".to_vec()).await.unwrap();
    store.put("a/2", b"two".to_vec()).await.unwrap();
    store.put("b/1", b"other".to_vec()).await.unwrap();
    store.put("a", b"above".to_vec()).await.unwrap();
    let listed = store.list("a/").await.unwrap();
    assert_eq!(listed, [("a/1".to_owned(), b"one".to_vec()), ("a/2".to_owned(), b"two".to_vec())]);
    assert!(!store.compare_and_swap("a/1", None, b"x".to_vec()).await.unwrap());
    assert!(!store.compare_and_swap("a/1", Some(b"two".to_vec()), b"x".to_vec()).await.unwrap());
    assert!(!store.compare_and_swap("a/9", Some(b"two".to_vec()), b"x".to_vec()).await.unwrap());
    assert!(store.compare_and_swap("a/1", Some(b"one".to_vec()), b"x".to_vec()).await.unwrap());
    assert!(store.compare_and_swap("a/3", None, b"y".to_vec()).await.unwrap());
    assert_eq!(store.get("a/1").await.unwrap().as_deref(), Some(&b"x"[..]));
    store.delete("a/1").await.unwrap();
    store.delete("a/1").await.unwrap();
    assert_eq!(store.list("a/").await.unwrap().len(), 2);
}

fn open(dir: &TempDir) -> Result<EmbeddedStore, StoreError> {
    EmbeddedStore::open(&dir.path().join("node/state.redb"))
}

#[tokio::test]
async fn both_keep_their_promises() {
    promises(&MemoryStore::default()).await;
    let dir = TempDir::new().unwrap();
    promises(&open(&dir).unwrap()).await;
    let again = open(&dir).unwrap();
    assert_eq!(again.get("b/1").await.unwrap().as_deref(), Some(&b"other"[..]));
}

#[tokio::test]
async fn only_root_reads_it_and_only_one_process_has_it() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir.path().join("node")), 0o700);
    assert_eq!(mode(&dir.path().join("node/state.redb")), 0o600);
    let Err(error) = open(&dir) else { panic!("opened twice") };
    assert!(matches!(error, StoreError::InUse { .. }), "{error}");
    drop(store);
    open(&dir).unwrap();
    fs::set_permissions(dir.path().join("node"), fs::Permissions::from_mode(0o777)).unwrap();
    assert!(open(&dir).err().unwrap().to_string().contains("others may write to it (mode 0777)"));
}

#[tokio::test]
async fn a_killed_writer_leaves_a_sound_store() {
    let dir = TempDir::new().unwrap();
    let store = open(&dir).unwrap();
    store.put("k", b"v".to_vec()).await.unwrap();
    // What kill -9 leaves: the file as it is while the store is open.
    let copy = dir.path().join("copy/state.redb");
    private_dir(copy.parent().unwrap()).unwrap();
    fs::copy(dir.path().join("node/state.redb"), &copy).unwrap();
    assert_eq!(EmbeddedStore::open(&copy).unwrap().get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
}

/// A store with 200 values, closed; and every way to damage its file.
async fn damaged(dir: &TempDir) -> Vec<Vec<u8>> {
    let store = open(dir).unwrap();
    for n in 0..200 {
        store.put(&format!("pods/{n}"), vec![b'x'; 300]).await.unwrap();
    }
    drop(store);
    // The copy begins with all of them.
    drop(open(dir).unwrap());
    let sound = fs::read(dir.path().join("node/state.redb")).unwrap();
    let at = sound.windows(300).position(|window| window == [b'x'; 300]).unwrap();
    let mut flipped = sound.clone();
    flipped[at + 7] ^= 1;
    vec![b"".to_vec(), b"not a store".to_vec(), vec![0; 8192], sound[..sound.len() / 2].to_vec(), flipped]
}

#[tokio::test]
async fn damage_without_a_copy_is_refused_and_left_alone() {
    let dir = TempDir::new().unwrap();
    let [path, copy, _] = files(&dir.path().join("node/state.redb"));
    for damage in damaged(&dir).await {
        fs::write(&path, &damage).unwrap();
        let sound = fs::read_to_string(&copy).unwrap();
        let (first, rest) = sound.split_at(sound.len() / 2);
        let (broken, other) = (format!("{first}?{}", &rest[1..]), sound.replace("state 1:", "state 2:"));
        let (cut, half) = (first.to_owned(), format!("{}\n", first.rsplit_once('\n').unwrap().0));
        for copied in [None, Some(&broken), Some(&other), Some(&cut), Some(&half), Some(&String::new())] {
            match copied {
                Some(text) => fs::write(&copy, text).unwrap(),
                None => fs::remove_file(&copy).unwrap(),
            }
            let Err(error) = open(&dir) else { panic!("opened {} damaged bytes", damage.len()) };
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            let said = error.to_string();
            for needed in ["node/state.redb", "node/state.copy", "backup", "--force"] {
                assert!(said.contains(needed), "{said}");
            }
            assert_eq!(fs::metadata(&path).unwrap().len(), damage.len() as u64, "it was changed");
            assert_eq!(fs::read_to_string(&copy).ok().as_ref(), copied, "it was changed");
        }
        fs::write(&copy, sound).unwrap();
    }
}

#[tokio::test]
async fn what_is_damaged_or_missing_is_made_again_from_its_copy() {
    let dir = TempDir::new().unwrap();
    let [path, _, aside] = files(&dir.path().join("node/state.redb"));
    for damage in damaged(&dir).await {
        fs::write(&path, &damage).unwrap();
        let store = open(&dir).unwrap();
        assert_eq!(store.list("pods/").await.unwrap().len(), 200);
        assert_eq!(fs::metadata(&aside).unwrap().len(), damage.len() as u64);
        // What is written and removed later is known as well.
        store.put("pods/0", b"new".to_vec()).await.unwrap();
        store.delete("pods/1").await.unwrap();
        drop(store);
        fs::remove_file(&path).unwrap();
        let store = open(&dir).unwrap();
        assert_eq!(store.get("pods/0").await.unwrap().as_deref(), Some(&b"new"[..]));
        assert_eq!(store.get("pods/1").await.unwrap(), None);
        store.put("pods/1", b"".to_vec()).await.unwrap();
    }
}

#[tokio::test]
async fn a_copy_does_not_grow_for_ever() {
    let dir = TempDir::new().unwrap();
    let [path, copy, _] = files(&dir.path().join("node/state.redb"));
    let store = open(&dir).unwrap();
    let value = vec![b'v'; 10_000];
    for n in 0..300 {
        store.put(&format!("k/{}", n % 3), value.clone()).await.unwrap();
    }
    drop(store);
    let text = fs::read_to_string(&copy).unwrap();
    assert!(text.len() < 2 << 20, "{} bytes", text.len());
    fs::remove_file(&path).unwrap();
    assert_eq!(open(&dir).unwrap().list("").await.unwrap().len(), 3);
}

#[tokio::test]
async fn a_directory_in_its_place_is_moved_aside() {
    let dir = TempDir::new().unwrap();
    let [path, _, aside] = files(&dir.path().join("node/state.redb"));
    open(&dir).unwrap().put("k", b"v".to_vec()).await.unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir_all(path.join("inside")).unwrap();
    assert_eq!(open(&dir).unwrap().get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
    assert!(aside.join("inside").is_dir());
}

#[tokio::test]
async fn values_tell_their_version() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
    store.write("k", &"v").await.unwrap();
    assert_eq!(store.read::<String>("k").await.unwrap().as_deref(), Some("v"));
    assert!(!store.create("k", &"w").await.unwrap());
    assert!(store.create("l", &"w").await.unwrap());
    assert_eq!(store.read_all::<String>("").await.unwrap(), ["v", "w"]);
    store.put("k", serde_json::to_vec(&json!({"version": 2, "shape": "new"})).unwrap()).await.unwrap();
    let error = store.read::<String>("k").await.unwrap_err().to_string();
    assert!(error.contains("'k'") && error.contains("version 2"), "{error}");
    store.put("k", b"{".to_vec()).await.unwrap();
    assert!(store.read::<String>("k").await.unwrap_err().to_string().contains("damaged"));
}
