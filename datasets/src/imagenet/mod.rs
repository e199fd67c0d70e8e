//! Folders of the ImageNet layout: one folder of images for each class.
//!
//! ```text
//! root/<class>/…/name.JPEG                 or
//! root/<split>/<class>/…/name.JPEG         any image format
//! ```
//!
//! Class indices follow the sorted names of the folders (synsets in ImageNet), as in torchvision's `ImageFolder`, or the order of a
//! [class list](ImageFolder::open). Unlike in torchvision, the EXIF orientation of a photo is applied. What is no photo is skipped, see
//! [`photos`](crate::photos).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use image::RgbImage;

use crate::class_list::{FolderRow, read_folder_list};
use crate::error::DataError;
use crate::files::check_inputs;
use crate::folders::{entries, file_name};
use crate::image_io::{self, IMAGE_ENDINGS};
use crate::photos::{Photos, Skipped, photos_below};

/// A class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageClass {
    /// The name of its folder; in ImageNet its synset.
    pub folder: String,
    /// Its readable name; without a class list, the name of its folder.
    pub name: String,
}

/// An image with its class.
#[derive(Clone, Debug)]
pub struct ClassificationSample {
    /// The image, 8 bits a channel.
    pub image: RgbImage,
    /// Class index.
    pub label: usize,
}

/// One folder of images for each class. Images are read on demand, possibly from several threads at once.
#[derive(Clone, Debug)]
#[expect(clippy::len_without_is_empty, reason = "an empty data set cannot be opened")]
pub struct ImageFolder {
    root: PathBuf,
    classes: Vec<ImageClass>,
    /// Every image with its class index, sorted by class and then by path.
    images: Vec<(PathBuf, usize)>,
    /// Images in the folders of the classes that are no photos.
    skipped: Skipped,
}

impl ImageFolder {
    /// Opens the folder `root/<split>` if it exists, else `root` itself.
    ///
    /// `list` is a [class list](crate::class_list) in the order of the class indices: the name of a class's folder, then, after a tab or
    /// space, its readable name (the layout of ImageNet's `LOC_synset_mapping.txt`); or a table with a header. A listed class without a
    /// folder has no images, so that a part of a data set can be used.
    ///
    /// # Errors
    /// When the folder does not exist or has no folders of classes, a class has no image, or the list is empty, names a class twice, or
    /// lacks one of the folders.
    pub fn open(root: &Path, split: &str, list: Option<&Path>) -> Result<Self, DataError> {
        let below = root.join(split);
        let root = if below.is_dir() { below } else { root.to_owned() };
        if !root.is_dir() {
            return Err(DataError::layout(&root, "no such folder; expected a folder with one folder of images for each class"));
        }
        let (folders, _) = entries(&root)?;
        let folders: BTreeMap<String, PathBuf> = folders.into_iter().map(|path| (file_name(&path), path)).collect();
        if folders.is_empty() {
            return Err(DataError::layout(&root, "there is no folder of a class in this folder; expected <class>/<image>"));
        }
        let classes = match list {
            Some(list) => read_list(list, &folders, &root)?,
            None => folders.keys().map(|folder| ImageClass { folder: folder.clone(), name: folder.clone() }).collect(),
        };
        let (mut images, mut skipped) = (Vec::new(), Skipped::default());
        for (label, class) in classes.iter().enumerate() {
            let Some(folder) = folders.get(&class.folder) else { continue };
            let own = images_below(folder)?;
            skipped += own.skipped;
            if own.files.is_empty() {
                let message = format!("there is no image in the folder of this class (looked for {})", IMAGE_ENDINGS.join(", "));
                return Err(DataError::layout(folder, message));
            }
            images.extend(own.files.into_iter().map(|path| (path, label)));
        }
        Ok(Self { root, classes, images, skipped })
    }

    /// The folder with the folders of the classes.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The classes by class index.
    pub fn classes(&self) -> &[ImageClass] {
        &self.classes
    }

    /// Images in the folders of the classes that are no photos.
    pub fn skipped(&self) -> Skipped {
        self.skipped
    }

    /// Number of images.
    pub fn len(&self) -> usize {
        self.images.len()
    }

    /// The file of image `index` and its class index.
    pub fn image(&self, index: usize) -> Option<(&Path, usize)> {
        self.images.get(index).map(|(path, label)| (path.as_path(), *label))
    }

    /// Reads image `index`, counted from 0.
    ///
    /// # Errors
    /// When `index` is not below [`ImageFolder::len`], or the file is missing, not an image, or damaged.
    pub fn get(&self, index: usize) -> Result<ClassificationSample, DataError> {
        let Some((path, label)) = self.image(index) else {
            return Err(DataError::NoSuchSample { index, len: self.len() });
        };
        Ok(ClassificationSample { image: image_io::read_rgb(path)?, label })
    }
}

/// The photos in and below a folder of any layout, see [`photos_below`].
///
/// # Errors
/// When the folder does not exist or holds no photo.
pub fn find_images(root: &Path) -> Result<Photos, DataError> {
    if !root.is_dir() {
        return Err(DataError::layout(root, "no such folder"));
    }
    let images = images_below(root)?;
    if images.files.is_empty() {
        return Err(DataError::layout(
            root,
            format!("there is no image in or below this folder (looked for {})", IMAGE_ENDINGS.join(", ")),
        ));
    }
    Ok(images)
}

/// The photos in and below a folder, sorted. None may be an output of this process.
fn images_below(folder: &Path) -> Result<Photos, DataError> {
    let photos = photos_below(folder)?;
    check_inputs(photos.files.iter().map(PathBuf::as_path))?;
    Ok(photos)
}

/// Reads a class list and compares it with the `folders` in `root`.
fn read_list(list: &Path, folders: &BTreeMap<String, PathBuf>, root: &Path) -> Result<Vec<ImageClass>, DataError> {
    let mut classes = Vec::new();
    let mut known = BTreeSet::new();
    for FolderRow { line, folder, name } in read_folder_list(list, &|name| folders.contains_key(name))? {
        if !known.insert(folder.clone()) {
            return Err(DataError::layout(list, format!("line {line}: the class `{folder}` is listed twice")));
        }
        classes.push(ImageClass { folder, name });
    }
    match folders.keys().find(|folder| !known.contains(folder.as_str())) {
        Some(folder) => Err(DataError::layout(list, format!("the class list lacks the folder `{folder}` of {}", root.display()))),
        None => Ok(classes),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(images: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for name in images {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            RgbImage::new(3, 2).save_with_format(&path, image::ImageFormat::Png).unwrap();
        }
        root
    }

    fn open(root: &tempfile::TempDir, list: Option<&str>) -> Result<ImageFolder, DataError> {
        let path = root.path().join("list.txt");
        list.iter().for_each(|text| fs::write(&path, text).unwrap());
        ImageFolder::open(root.path(), "val", list.map(|_| path.as_path()))
    }

    fn found(data: &ImageFolder) -> Vec<(String, usize)> {
        data.images.iter().map(|(path, label)| (path.strip_prefix(&data.root).unwrap().display().to_string(), *label)).collect()
    }

    #[test]
    fn class_indices_follow_the_names_of_the_folders() {
        let names = ["n02/b.JPEG", "n02/a.png", "n01/images/x.jpg", "n10/y.webp", ".git/z.png"];
        let expected = [("n01/images/x.jpg", 0), ("n02/a.png", 1), ("n02/b.JPEG", 1), ("n10/y.webp", 2)];
        let expected = expected.map(|(name, label)| (name.to_owned(), label));
        assert_eq!(found(&open(&folder(&names), None).unwrap()), expected);
        let root = folder(&names.map(|name| format!("val/{name}")).each_ref().map(String::as_str));
        let data = open(&root, None).unwrap();
        assert_eq!(found(&data), expected);
        assert_eq!((data.get(3).unwrap().label, data.get(3).unwrap().image.dimensions()), (2, (3, 2)));
        assert!(data.get(4).is_err());
    }

    #[test]
    fn a_list_gives_order_and_names() {
        let root = folder(&["n02/a.png", "Granny Smith/b.png"]);
        let data = open(&root, Some("n02 tench, Tinca tinca\n\nn05\tgoldfish\nGranny Smith\n")).unwrap();
        let names: Vec<&str> = data.classes().iter().map(|class| class.name.as_str()).collect();
        assert_eq!(names, ["tench, Tinca tinca", "goldfish", "Granny Smith"]);
        assert_eq!(found(&data), [("n02/a.png".to_owned(), 0), ("Granny Smith/b.png".to_owned(), 2)]);
        for (list, parts) in [
            ("n02\n", ["list.txt", "lacks the folder `Granny Smith`"]),
            ("n02 a\nn02 b\n", ["line 2", "`n02` is listed twice"]),
            ("\n", ["list.txt", "empty"]),
        ] {
            let error = open(&root, Some(list)).unwrap_err().to_string();
            assert!(parts.iter().all(|part| error.contains(part)), "{error}");
        }
    }

    #[test]
    fn an_error_names_the_missing_folder_or_image() {
        let error = |root: &tempfile::TempDir| open(root, None).unwrap_err().to_string();
        assert!(error(&folder(&[])).contains("no folder of a class"));
        assert!(error(&folder(&["stray.png"])).contains("no folder of a class"));
        let root = folder(&["a/x.png"]);
        fs::create_dir(root.path().join("b")).unwrap();
        fs::write(root.path().join("b/readme.txt"), "").unwrap();
        assert!(error(&root).contains("no image in the folder of this class"), "{}", error(&root));
        assert!(error(&root).starts_with(&root.path().join("b").display().to_string()));
        let missing = ImageFolder::open(&root.path().join("none"), "val", None).unwrap_err().to_string();
        assert!(missing.contains("none: no such folder"), "{missing}");
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink(root.path().join("a"), root.path().join("a/circle")).unwrap();
            assert!(error(&root).contains("does a symbolic link lead back"), "{}", error(&root));
        }
    }
}
