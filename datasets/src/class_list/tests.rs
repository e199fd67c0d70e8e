use super::*;

fn file(bytes: impl AsRef<[u8]>) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    file
}

fn read(text: &str) -> Result<ClassFile, DataError> {
    read_class_list(file(text).path())
}

fn names(text: &str) -> Vec<String> {
    read(text).unwrap_or_else(|error| panic!("{text:?}: {error}")).classes.names
}

#[track_caller]
fn refused(text: &str, parts: &[&str]) {
    let error = read(text).expect_err(text).to_string();
    assert!(parts.iter().all(|part| error.contains(part)), "{text:?}: {error}");
}

const GROUND_SKY: [&str; 2] = ["ground", "sky"];

#[test]
fn published_layouts_are_read() {
    let camvid = read("Idx,Name,R,G,B\n1,sky,128,128,128\n2,building,128,0,0\n").unwrap();
    assert_eq!((camvid.classes.names, camvid.classes.palette), (vec!["sky".into(), "building".into()], vec![[128; 3], [128, 0, 0]]));
    assert_eq!(camvid.first, Some(1));
    assert_eq!(names("Idx\tRatio\tTrain\tVal\tName\n1\t0.1\t5\t6\twall\n2\t0.1\t5\t6\tbuilding, edifice \n"), ["wall", "building"]);
    assert_eq!(names("Idx,Ratio,Train,Val,Stuff,Name\n1,0.1,5,6,1,wall\n2,0.1,5,6,1,building;edifice\n"), ["wall", "building"]);
    assert_eq!(names("Idx,CocoId,IsThing,Name\n1,1,1,person\n2,3,1,car\n"), ["person", "car"]);
    // Roboflow's and CVAT's exports.
    assert_eq!(names("Pixel Value, Class\n0, background\n1, cat\n"), ["background", "cat"]);
    let cvat = read("# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,7::\n").unwrap().classes;
    assert_eq!((cvat.names, cvat.palette), (vec!["background".into(), "cat".into()], vec![[0; 3], [128, 0, 7]]));
    assert_eq!(names("cat\ndog\n\n"), ["cat", "dog"]);
}

#[test]
fn a_utf8_bom_before_a_class_list_is_read_over() {
    assert_eq!(names("\u{feff}Idx,Name\n1,ground\n2,sky\n"), GROUND_SKY);
    assert_eq!(names("\u{feff}ground\nsky\n"), GROUND_SKY);
}

#[test]
fn a_class_list_in_utf16_is_read() {
    let text = "Idx;Name\r\n0;ground\r\n1;sky\r\n";
    let units = || std::iter::once(0xfeff).chain(text.encode_utf16());
    for bytes in [units().flat_map(u16::to_le_bytes).collect::<Vec<u8>>(), units().flat_map(u16::to_be_bytes).collect()] {
        assert_eq!(read_class_list(file(bytes).path()).unwrap().classes.names, GROUND_SKY);
    }
}

#[test]
fn carriage_returns_belong_to_no_name() {
    assert_eq!(names("Idx,Name\r\n1,ground\r\n2,sky\r\n"), GROUND_SKY);
    assert_eq!(names("ground\rsky\r"), GROUND_SKY);
}

#[test]
fn columns_are_found_by_their_names_in_any_order() {
    for text in [
        "Name,Idx\nground,0\nsky,1\n",
        "Name,Idx,R,G,B\nground,1,1,2,3\nsky,2,4,5,6\n",
        "Idx;Name;R;G;B\n1;ground;1;2;3\n2;sky;4;5;6\n",
        "Name;R;G;B\nground;1;2;3\nsky;4;5;6\n",
        "id,label,color\n0,ground,#010203\n1,sky,#040506\n",
        "id,label,color\n0,ground,\"1,2,3\"\n1,sky,\"4, 5, 6\"\n",
        "id,label,color\n0,ground,1,2,3\n1,sky,4,5,6\n",
        "label,name\n0,ground\n1,sky\n",
        "class_id\tclass_name\n0\tground\n1\tsky\n",
        "Idx Name\n1 ground\n2 sky\n",
        "name\nground\nsky\n",
        "\"Idx\",\"Name\"\n\"1\",\"ground, earth\"\n\"2\",\"sky\"\n",
    ] {
        assert_eq!(names(text), GROUND_SKY, "{text:?}");
    }
    let coloured = read("id,label,color\n0,ground,#010203\n1,sky,(4, 5, 6)\n").unwrap().classes;
    assert_eq!(coloured.palette, [[1, 2, 3], [4, 5, 6]]);
}

#[test]
fn the_numbers_decide_the_order_of_the_classes() {
    assert_eq!(names("Idx,Name\n2,sky\n1,ground\n"), GROUND_SKY);
    assert_eq!(names("Idx,Name\n1,sky\n0,ground\n"), GROUND_SKY);
    assert_eq!(names("1: sky\n0: ground\n"), GROUND_SKY);
    let coloured = read("Idx,Name,R,G,B\n2,sky,4,5,6\n1,ground,1,2,3\n").unwrap().classes;
    assert_eq!(coloured.palette, [[1, 2, 3], [4, 5, 6]]);
    refused("Idx,Name\n1,ground\n3,sky\n", &["line 3", "no class has the number 2"]);
    refused("Idx,Name\n1,ground\n1,sky\n", &["line 3", "already that of line 2"]);
    refused("Idx,Name\n7,ground\n8,sky\n", &["line 2", "from 0 or 1"]);
    refused("Idx,Name\n0,ground\n255,void\n", &["line 3", "255 is the ignored label"]);
    refused("Idx,Name\n0,ground\n-1,sky\n", &["line 3", "`-1`"]);
}

#[test]
fn the_train_id_of_cityscapes_decides_where_there_is_an_id_too() {
    // The columns of cityscapesscripts/helpers/labels.py.
    let list = read(
        "name,id,trainId,category,catId,hasInstances,ignoreInEval,color\n\
         unlabeled,0,255,void,0,False,True,\"(0, 0, 0)\"\n\
         sky,23,1,sky,5,False,False,\"(70,130,180)\"\n\
         road,7,0,flat,1,False,False,\"(128, 64,128)\"\n\
         license plate,-1,-1,vehicle,7,False,True,\"(0, 0,142)\"\n",
    )
    .unwrap();
    assert_eq!(list.classes.names, ["road", "sky"]);
    assert_eq!((list.classes.palette, list.first), (vec![[128, 64, 128], [70, 130, 180]], Some(0)));
    assert_eq!(names("trainId,name\n1,sky\n0,ground\n"), GROUND_SKY);
    refused("id,trainId,name\n7,255,road\n", &["every class", "ignored"]);
    refused("id,trainId,name\n7,0,road\n8,x,sky\n", &["line 3", "`x`"]);
}

#[test]
fn a_number_before_a_name_belongs_to_no_name() {
    for text in [
        "0: ground\n1: sky\n",
        "0,ground\n1,sky\n",
        "0\tground\n1\tsky\n",
        "1 ground\n2 sky\n",
        "0 - ground\n1 - sky\n",
        "1. ground\n2. sky\n",
    ] {
        assert_eq!(names(text), GROUND_SKY, "{text:?}");
    }
    // These numbers count nothing.
    assert_eq!(names("2 door car\n4 door car\n"), ["2 door car", "4 door car"]);
    assert_eq!(names("0\n1\n2\n"), ["0", "1", "2"]);
}

#[test]
fn comment_lines_are_no_classes() {
    assert_eq!(names("# my classes\nIdx,Name\n# the first\n1,ground\n2,sky\n"), GROUND_SKY);
    assert_eq!(names("# id: name\nground\n  # not yet\nsky\n"), GROUND_SKY);
}

#[test]
fn what_is_not_understood_is_refused_with_its_line() {
    refused("", &["empty"]);
    refused("# nothing\n", &["empty"]);
    refused("Idx,Name\n", &["no class"]);
    refused("Idx,Name,R,G,B\n1,sky,300,0,0\n", &["line 2", "`300`"]);
    refused("Idx,Name,R\n1,sky,3\n", &["line 1", "`R`, `G` and `B`"]);
    refused("Idx,R,G,B\n1,3,4,5\n", &["line 1", "no column has the names"]);
    refused("Idx,id,Name\n1,3,sky\n", &["line 1", "`Idx` and `id`"]);
    refused("Idx,Name,R,G,B\n1,sky\n", &["line 2", "colour"]);
    refused("Idx,Name,R,G,B\n1,sky,blue,1,2,3\n", &["line 2", "6 columns", "5"]);
    refused("Idx,Name\n1,\n", &["line 2", "no name"]);
    refused("Idx,Name\n1,\"sky\n", &["line 2", "double quote"]);
    refused("id,label,color\n0,sky,blue\n", &["line 2", "`blue`"]);
    // Columns without a header.
    for text in [
        "sky,128,128,128\n",
        "1,sky,128,128,128\n",
        "128 128 128 sky\n",
        "64 128 64\tAnimal\n",
        "sky\t3\n",
        "ground=0\n",
        "ground: 0\n",
        "1\t2978\n",
    ] {
        refused(text, &["line 1", "header"]);
    }
    refused("0: ground\nsky\n", &["line 2", "this one does not"]);
    // Other formats.
    refused("names:\n", &["line 1", "`names:`"]);
    refused("- ground\n- sky\n", &["line 1"]);
    refused("{\"0\": \"ground\"}\n", &["line 1"]);
    refused("__ignore__\n_background_\ncat\n", &["line 1", "labelme"]);
    refused("sky\u{1b}[31m\n", &["line 1", "control character"]);
    let error = read_class_list(file([0x80, 0xff, 0x00]).path()).unwrap_err().to_string();
    assert!(error.contains("not UTF-8 text"), "{error}");
}

#[test]
fn a_list_with_class_0_does_not_fit_labels_whose_0_is_ignored() {
    let path = Path::new("classes.csv");
    let list = |text: &str| read(text).unwrap();
    let error = list("0: unlabelled\n1: ground\n").for_labels(path, true).unwrap_err().to_string();
    assert!(error.contains("class 0 is \"unlabelled\"") && error.contains("reduce_zero_label"), "{error}");
    for (text, reduce) in
        [("0: ground\n1: sky\n", false), ("1: ground\n2: sky\n", true), ("1: ground\n2: sky\n", false), ("ground\nsky\n", true)]
    {
        assert_eq!(list(text).for_labels(path, reduce).unwrap().names, GROUND_SKY);
    }
}

#[test]
fn the_list_of_a_folder_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("data");
    std::fs::create_dir_all(root.join("images/training")).unwrap();
    let find = |named: Option<&str>| find_class_list(&root, named.map(Path::new), true);
    assert_eq!(find(None).unwrap(), None);
    std::fs::write(root.join("images/training/ADE_train_00000001.jpg"), "").unwrap();
    let ade20k = find(None).unwrap().unwrap();
    assert_eq!((ade20k.classes.len(), ade20k.place), (150, Place::Ade20k));
    std::fs::write(root.join("objectInfo2.csv"), "Idx,Name\n1,ground\n2,sky\n").unwrap();
    let own = find(None).unwrap().unwrap();
    assert_eq!((own.classes.names, own.place), (GROUND_SKY.map(str::to_owned).to_vec(), Place::File(root.join("objectInfo2.csv"))));
    std::fs::write(root.join("classes.txt"), "ground\nsky\n").unwrap();
    assert!(find(None).is_ok(), "both lists have the same classes");
    std::fs::write(root.join("classes.txt"), "sky\nground\n").unwrap();
    let error = find(None).unwrap_err().to_string();
    assert!(error.contains("classes.txt") && error.contains("objectInfo2.csv"), "{error}");
    assert_eq!(find(Some("classes.txt")).unwrap().unwrap().classes.names, ["sky", "ground"]);
    assert_eq!(find(Some("ade20k")).unwrap().unwrap().place, Place::Ade20k);
    // A list from elsewhere is used, and the folder's own one with other names is named.
    let elsewhere = folder.path().join("other.txt");
    std::fs::write(&elsewhere, "sky\nground\n").unwrap();
    let found = find(elsewhere.to_str()).unwrap().unwrap();
    assert_eq!((found.classes.names, found.unused), (vec!["sky".to_owned(), "ground".to_owned()], Some(root.join("objectInfo2.csv"))));
    assert_eq!(find(Some("classes.txt")).unwrap().unwrap().unused, None);
    assert!(find(Some("none.txt")).unwrap_err().to_string().contains("none.txt"));
}

#[test]
fn a_list_of_folders_has_their_order_and_names() {
    let folders = |text: &str, known: &[&str]| -> Vec<(String, String)> {
        let rows = read_folder_list(file(text).path(), &|name| known.contains(&name)).unwrap_or_else(|error| panic!("{error}"));
        rows.into_iter().map(|row| (row.folder, row.name)).collect()
    };
    let expected = [("n02", "tench, Tinca tinca"), ("n01", "goldfish")].map(|(folder, name)| (folder.to_owned(), name.to_owned()));
    let known = ["n01", "n02"];
    assert_eq!(folders("\u{feff}n02 tench, Tinca tinca\r\nn01\tgoldfish\r\n", &known), expected);
    assert_eq!(folders("# order of the head\n1: n01 goldfish\n0: n02 tench, Tinca tinca\n", &known), expected);
    assert_eq!(folders("id;synset;name\n1;n01;goldfish\n0;n02;tench, Tinca tinca\n", &known), expected);
    assert_eq!(folders("Name,Idx\ncat,2\ndog,1\n", &["cat", "dog"]), [("dog", "dog"), ("cat", "cat")].map(|(a, b)| (a.into(), b.into())));
    // Digits are folders here, not class numbers.
    assert_eq!(folders("1 one\n0 zero\n", &["0", "1"]), [("1", "one"), ("0", "zero")].map(|(a, b)| (a.into(), b.into())));
}
