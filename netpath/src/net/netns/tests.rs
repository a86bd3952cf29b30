//! Files of namespaces.

use super::*;
use crate::net::{sysctl, testing};

#[test]
fn create_open_enter_delete() {
    let directory = testing::isolate_with_directory();
    let path = directory.join("pods/a");
    let made = Netns::create(&path).unwrap();
    let opened = Netns::open(&path).unwrap();
    let own = Netns::current().unwrap();
    assert_eq!(made.inode(), opened.inode());
    assert_ne!(made.inode(), own.inode());
    assert_eq!(opened.path(), Some(path.as_path()));
    assert_eq!(fs::metadata(directory.join("pods")).unwrap().mode() & 0o7777, 0o755);

    assert_eq!(made.enter(|| Netns::current().unwrap().inode()).unwrap(), made.inode());
    assert_eq!(Netns::current().unwrap().inode(), own.inode());

    Netns::delete(&path).unwrap();
    assert!(!path.exists());
    Netns::delete(&path).unwrap();
    // The handle keeps the namespace alive without its file.
    assert_eq!(made.enter(|| Netns::current().unwrap().inode()).unwrap(), made.inode());
}

#[test]
fn proc_sys_follows_the_entered_thread() {
    let directory = testing::isolate_with_directory();
    let other = Netns::create(&directory.join("a")).unwrap();
    other.enter(|| sysctl::write("net.ipv4.ip_forward", "1")).unwrap().unwrap();
    assert_eq!(sysctl::read("net.ipv4.ip_forward").unwrap(), "0");
    assert_eq!(other.enter(|| sysctl::read("net.ipv4.ip_forward")).unwrap().unwrap(), "1");
}

#[test]
fn sockets_opened_inside_stay_inside() {
    let directory = testing::isolate_with_directory();
    let other = Netns::create(&directory.join("a")).unwrap();
    let bind = || std::net::UdpSocket::bind("127.0.0.1:4000");
    let inside = other.enter(bind).unwrap().unwrap();
    let outside = bind().unwrap();
    assert_eq!(inside.local_addr().unwrap(), outside.local_addr().unwrap());
}

#[test]
fn create_refuses_what_exists() {
    let directory = testing::isolate_with_directory();
    let path = directory.join("a");
    let first = Netns::create(&path).unwrap();
    let error = Netns::create(&path).unwrap_err();
    assert!(error.to_string().contains("File exists; use another name, or remove"), "{error}");
    assert_eq!(Netns::open(&path).unwrap().inode(), first.inode());

    let file = directory.join("file");
    fs::write(&file, "text").unwrap();
    let error = Netns::create(&file).unwrap_err();
    assert!(error.reason.contains("not a namespace"), "{error}");
    assert_eq!(fs::read_to_string(&file).unwrap(), "text");
}

#[test]
fn a_failed_create_leaves_nothing() {
    let directory = testing::isolate_with_directory();
    let long = "n".repeat(300);
    let error = Netns::create(&directory.join("x/y").join(long)).unwrap_err();
    assert!(error.is(Errno::ENAMETOOLONG), "{error}");
    assert!(!directory.join("x").exists());
}

#[test]
fn open_refuses_other_files() {
    let directory = testing::isolate_with_directory();
    let error = Netns::open(&directory.join("none")).unwrap_err();
    assert!(error.to_string().ends_with("/none: No such file or directory"), "{error}");
    let file = directory.join("file");
    fs::write(&file, "").unwrap();
    assert!(Netns::open(&file).unwrap_err().reason.starts_with("this file is not a namespace"));
    let error = Netns::open(Path::new("/proc/self/ns/mnt")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "open network namespace /proc/self/ns/mnt: this is a namespace, but not a network namespace"
    );
}

#[test]
fn delete_keeps_what_is_not_a_namespace() {
    let directory = testing::isolate_with_directory();
    let file = directory.join("file");
    fs::write(&file, "text").unwrap();
    assert!(Netns::delete(&file).unwrap_err().reason.contains("the file has contents"));
    assert!(file.exists());
    assert!(Netns::delete(Path::new("/proc/self/ns/net")).is_err());
    // What a crash between making the file and mounting leaves.
    fs::write(&file, "").unwrap();
    Netns::delete(&file).unwrap();
    assert!(!file.exists());
}

#[test]
fn a_namespace_has_one_more_file() {
    let directory = testing::isolate_with_directory();
    let first = Netns::create(&directory.join("a")).unwrap();
    let second = first.bind(&directory.join("b")).unwrap();
    assert_eq!(second.inode(), first.inode());
    let own = Netns::current().unwrap();
    assert_eq!(own.bind(&directory.join("own")).unwrap().inode(), own.inode());
    Netns::delete(&directory.join("a")).unwrap();
    assert_eq!(Netns::open(&directory.join("b")).unwrap().inode(), first.inode());
    assert!(first.bind(&directory.join("b")).unwrap_err().to_string().contains("File exists"));
}

#[test]
fn delete_takes_down_stacked_mounts() {
    let directory = testing::isolate_with_directory();
    let path = directory.join("a");
    Netns::create(&path).unwrap();
    mount(Some(OWN), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
    Netns::delete(&path).unwrap();
    assert!(!path.exists());
}

#[test]
#[should_panic(expected = "inside")]
fn a_panic_inside_comes_out() {
    testing::isolate();
    let _ = Netns::current().unwrap().enter(|| panic!("inside"));
}
