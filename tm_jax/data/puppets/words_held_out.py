"""Words and phrases of the languages that are only tested; see `words`."""

HELD_OUT_WORDS = {
    "pl": {
        "S": (
            "piekarz|moja mama|stary rolnik|nasza sąsiadka|młody malarz|mały pies|mój brat|burmistrz|"
            "odważna kobieta|dziewczynka|nasz nauczyciel|niebieski ptak|znany poeta|mój przyjaciel|kierowca|"
            "spokojna małpa|kucharka|robot|królowa|listonosz|cała rodzina|ogrodnik|babcia|nowy uczeń"
        ),
        "V": (
            "przyniósł|znalazł|namalował|podziwiał|kupił|zapomniał|otworzył|zgubił|przygotował|umył|"
            "obserwował|sprzedał|popchnął|pokazał|odwiedził|wypił|opowiadał|lubił"
        ),
        "O": (
            "talerz zupy|dużą mapę|czerwone jabłko|ulubioną książkę|ciepły chleb|parę butów|otwarte okno|"
            "ciasto ze śliwkami|zepsutą lampę|butelkę mleka|pustą łódź|pierwszą stronę|dwa psy|"
            "papierowy samolot|filiżankę kawy|złoty zegarek|księżyc|długi list|muzykę|żółty rower|dynię|"
            "stare pianino"
        ),
        "A": (
            "nad rzeką|na środku pokoju|przed burzą|z uśmiechem|za domem|na górze|bez mapy|pod mostem|"
            "dla rodziny|obok muzeum|na rynku|bez powodu"
        ),
        "T": (
            "dziś rano|zeszłego lata|co wieczór|w południe|w poniedziałek|po śniadaniu|dwa lata temu|"
            "o północy|teraz|wczoraj|cały tydzień"
        ),
        "P": (
            "no dobrze|uwierz mi|drogi przyjacielu|oczywiście|proszę|wiesz co|może|bardzo dziękuję|"
            "dzień dobry|przede wszystkim"
        ),
        "Q": (
            "wspaniały|bardzo wesoły|za ciepły|odważny|zmęczony|trochę powolny|sławny|prawie pusty|miękki|"
            "zabawny|za daleko|wygodny|spokojny"
        ),
        "and": "i",
        "but": "ale",
        "is": "był",
    },
    "tr": {
        "S": (
            "fırıncı|annem|yaşlı çiftçi|komşumuz|genç bir ressam|küçük köpek|kardeşim|belediye başkanı|"
            "cesur bir kadın|küçük kız|öğretmenimiz|mavi kuş|ünlü bir şair|en iyi arkadaşım|şoför|"
            "sakin maymun|aşçı|robot|kraliçe|postacı|bütün aile|bahçıvan|babaannem|yeni öğrenci"
        ),
        "V": (
            "sonunda buldu ve|çok sevdi ve|hemen aldı ve|unuttu ama|boyadı ve|açtı ve|kaybetti ama|"
            "hazırladı ve|temizledi ve|izledi ve|sattı ama|itti ve|gösterdi ve|içti ve|bekledi ve"
        ),
        "O": (
            "bir tabak çorba|büyük haritayı|kırmızı elma|sevdiğim kitabı|sıcak ekmeği|bir çift bot|"
            "açık pencereyi|erikli pasta|bozuk lambayı|bir şişe süt|boş kayığı|ilk sayfayı|iki köpeği|"
            "kağıt uçağı|bir fincan kahve|altın saati|ayı gördü|uzun bir mektup|müziği|sarı bisikleti|"
            "bal kabağı|eski piyanoyu"
        ),
        "A": (
            "nehrin yanında|odanın ortasında|fırtınadan önce|gülümseyerek|evin arkasında|dağın tepesinde|"
            "haritasız|köprünün altında|ailem için|müzenin yanında|pazarda|sebepsiz yere"
        ),
        "T": (
            "bu sabah|geçen yaz|her akşam|öğleyin|pazartesi günü|kahvaltıdan sonra|iki yıl önce|gece yarısı|"
            "şimdi|dün|bütün hafta"
        ),
        "P": (
            "peki|inan bana|sevgili dostum|tabii ki|lütfen dinle|biliyor musun|belki|çok teşekkürler|"
            "günaydın|her şeyden önce"
        ),
        "Q": (
            "harika|çok mutlu|fazla sıcak|cesur|yorgun|biraz yavaş|ünlü|imkansız|neredeyse boş|yumuşak|"
            "komik|çok uzak|rahat|sakin"
        ),
        "and": "ve",
        "but": "ama",
        "is": "gerçekten",
    },
    "fi": {
        "S": (
            "leipuri|minun äitini|vanha maanviljelijä|meidän naapuri|nuori maalari|pieni koira|"
            "minun veljeni|pormestari|rohkea nainen|pikku tyttö|meidän opettaja|sininen lintu|"
            "kuuluisa runoilija|paras ystäväni|kuljettaja|hiljainen apina|kokki|robotti|kuningatar|"
            "postinkantaja|koko perhe|puutarhuri|isoäiti|uusi oppilas"
        ),
        "V": (
            "toi|löysi|maalasi|ihaili|osti|unohti|avasi|hukkasi|valmisti|pesi|katseli|möi|työnsi|näytti|"
            "maistoi|joi|pyysi|muisti"
        ),
        "O": (
            "lautasen keittoa|suuren kartan|punaisen omenan|mieluisan kirjan|lämpimän leivän|"
            "parin saappaita|avoimen ikkunan|luumupiirakan|rikkinäisen lampun|pullon maitoa|tyhjän veneen|"
            "ensimmäisen sivun|kaksi koiraa|paperilennokin|kupin kahvia|kultaisen kellon|kuun|"
            "pitkän kirjeen|musiikin|keltaisen pyörän|kurpitsan|vanhan pianon"
        ),
        "A": (
            "joen rannalla|keskellä huonetta|ennen myrskyä|hymyillen|talon takana|vuoren huipulla|"
            "ilman karttaa|sillan alla|perheelle|museon vieressä|torilla|ilman syytä"
        ),
        "T": (
            "tänä aamuna|viime kesänä|joka ilta|keskipäivällä|maanantaina|aamiaisen jälkeen|"
            "kaksi vuotta sitten|keskiyöllä|nyt|eilen|koko viikon"
        ),
        "P": (
            "no niin|usko minua|rakas ystävä|tietysti|ole hyvä|tiedätkö|ehkä|paljon kiitoksia|"
            "hyvää huomenta|ennen kaikkea"
        ),
        "Q": (
            "ihana|hyvin iloinen|liian lämmin|rohkea|väsynyt|vähän hidas|kuuluisa|mahdoton|melkein tyhjä|"
            "pehmeä|hauska|liian kaukana|mukava|rauhallinen"
        ),
        "and": "ja",
        "but": "mutta",
        "is": "oli",
    },
    "sv": {
        "S": (
            "bagaren|min mamma|den gamla bonden|vår granne|en ung målare|den lilla hunden|min bror|"
            "borgmästaren|en modig kvinna|flickan|vår lärare|den blå fågeln|en känd poet|min bästa vän|"
            "chauffören|en lugn apa|kocken|roboten|drottningen|brevbäraren|hela familjen|trädgårdsmästaren|"
            "min mormor|den nya eleven"
        ),
        "V": (
            "hittade|målade|köpte|glömde|öppnade|tappade|flyttade|lagade|tvättade|följde|sålde|ville ha|"
            "knuffade|sparade|besökte|provade|drack|bar"
        ),
        "O": (
            "en tallrik soppa|den stora kartan|ett rött äpple|min bästa bok|det varma brödet|"
            "ett par stövlar|det öppna fönstret|en plommonkaka|den trasiga lampan|en flaska mjölk|"
            "den tomma båten|första sidan|två hundar|ett papperplan|en kopp kaffe|guldklockan|månen|"
            "ett långt brev|musiken|den gula cykeln|en pumpa|ett gammalt piano"
        ),
        "A": (
            "vid floden|mitt i rummet|före stormen|med ett leende|bakom gården|uppe på berget|utan karta|"
            "under bron|för min familj|bredvid museet|på torget|utan anledning"
        ),
        "T": (
            "i morse|förra sommaren|varje kväll|mitt på dagen|på måndag|efter frukosten|för två år sedan|"
            "vid midnatt|just nu|i går|hela veckan"
        ),
        "P": (
            "nåja|tro mig|min kära vän|självklart|snälla du|vet du|kanske|tack så mycket|god morgon|"
            "framför allt"
        ),
        "Q": (
            "underbar|mycket glad|alldeles för varm|modig|trött|lite långsam|berömd|omöjlig|nästan tom|mjuk|"
            "rolig|för långt borta|bekväm|lugn"
        ),
        "and": "och",
        "but": "men",
        "is": "var",
    },
}
