"""Sentences of many languages, and the encodings that people have written them in."""

from __future__ import annotations

SAMPLES: dict[str, str] = {
    "German": (
        "Die Mühle steht am Kanal, und ihr Besitzer ist dreiundsechzig Jahre alt.\n"
        "Jeden Herbst bringen die Bauern ihr Getreide hierher, das Mehl fährt später in die "
        "Stadt.\nDas Hochwasser zerstörte voriges Jahr das große Rad; die Reparatur kostete "
        "72.500 Mark.\nFür Schüler öffnet die Mühle künftig mittwochs, bitte Stiefel mitbringen.\n"
    ),
    "French": (
        "Le moulin se trouve près du canal et son propriétaire a soixante-trois ans.\n"
        "Chaque automne, les fermiers y apportent le blé, et la farine est envoyée à la ville.\n"
        "L'été dernier, la crue a brisé la roue ; la réparation a coûté très cher, paraît-il.\n"
        "Dès le mois prochain, les élèves viendront là le mercredi : prévoyez des bottes, ça "
        "glisse.\n"
    ),
    "Spanish": (
        "El molino está junto al canal y su dueño, don Iñigo, tiene sesenta y tres años.\n"
        "Cada otoño los campesinos traen aquí el trigo, y la harina se envía después a la "
        "ciudad.\n¿Cuánto costó la reparación? La inundación del año pasado rompió la rueda.\n"
        "Según dicen, el puente de piedra es cien años más antiguo. ¡Traigan botas, niños!\n"
    ),
    "Portuguese": (
        "O moinho fica junto ao canal e o seu dono, o senhor João, tem sessenta e três anos.\n"
        "No outono os lavradores trazem para cá o trigo, e a farinha é enviada à povoação.\n"
        "A inundação do ano passado quebrou a roda; a reparação não foi barata, dizem eles.\n"
        "A ponte de pedra atrás do moinho é cem anos mais antiga. As crianças vêm às quartas.\n"
    ),
    "Swedish": (
        "Kvarnen står vid kanalen, och ägaren är sextiotre år gammal och hör dåligt.\n"
        "Varje höst för bönderna hit sin säd, och mjölet skickas sedan med båt till staden.\n"
        "Förra årets översvämning bröt sönder hjulet; att laga det kostade många kronor.\n"
        "Från nästa månad kommer skolbarnen hit på onsdagar, så tag med stövlar åt alla.\n"
    ),
    "Danish": (
        "Møllen står ved kanalen, og dens ejer er treogtres år gammel og hører dårligt.\n"
        "Hvert efterår kører bønderne deres korn hertil, og melet sejler siden til byen.\n"
        "Sidste års oversvømmelse ødelagde hjulet; det kostede mange penge at få det gjort.\n"
        "Fra næste måned kommer skolebørnene på besøg om onsdagen, så husk støvler på.\n"
    ),
    "Polish": (
        "Wiatrak stoi na wzgórzu, a jego właścicielka ma już siedemdziesiąt pięć lat.\n"
        "Każdej jesieni chłopi przywożą tu żyto, a mąkę wysyła się później łodziami do miasta.\n"
        "Zeszłoroczna burza połamała śmigła; naprawa kosztowała więcej, niż się spodziewano.\n"
        "W środy będą tu przychodzić dzieci ze szkoły, więc proszę wziąć ze sobą kalosze.\n"
    ),
    "Czech": (
        "Mlýn stojí u řeky a jeho majiteli je šedesát tři let, ale pořád rád žertuje.\n"
        "Každý podzim sem sedláci přivážejí obilí a mouka se potom posílá na lodích do města.\n"
        "Loňská povodeň zničila kolo; oprava stála víc, než všichni čekali, říká se ve vsi.\n"
        "Příští měsíc začnou ve středu chodit děti ze školy, vezměte si, prosím, holínky.\n"
    ),
    "Hungarian": (
        "A malom a csatorna mellett áll, a tulajdonosa hatvanhárom éves, és jól főz.\n"
        "Minden ősszel ide hozzák a földművesek a búzát, és a lisztet hajóval küldik a "
        "városba.\nA tavalyi árvíz összetörte a kereket; a javítás nagyon sok pénzbe került.\n"
        "Jövő hónaptól szerdánként iskolások jönnek ide, kérjük, hozzanak gumicsizmát. Ülő "
        "hely bőven van.\n"
    ),
    "Romanian": (
        "Moara stă lângă canal, iar proprietarul ei are șaizeci și trei de ani.\n".replace("ș", "ş")
        + "În fiecare toamnă, ţăranii aduc aici grâul, iar făina este trimisă apoi în oraş.\n"
        "Inundaţia de anul trecut a stricat roata; reparaţia a costat mai mult decât se "
        "aştepta.\nDe luna viitoare, miercurea, vor veni copiii de la şcoală, vă rugăm să "
        "aduceţi cizme.\n"
    ),
    "Turkish": (
        "Değirmen kanalın yanında duruyor ve sahibi altmış üç yaşında, neşeli bir adam.\n"
        "Her sonbahar çiftçiler buğdayı buraya getirir, un daha sonra şehre gönderilir.\n"
        "Geçen yılki sel çarkı kırdı; onarımı beklenenden çok daha pahalıya mal oldu.\n"
        "Gelecek aydan itibaren çarşamba günleri öğrenciler gelecek, lütfen çizme getirin.\n"
    ),
    "Russian": (
        "Мастерская стоит у реки, её хозяину уже шестьдесят пять лет, но он бодр.\n"
        "Каждую весну сюда привозят доски, а готовые лодки отправляют вниз по течению.\n"
        "Прошлогодний пожар уничтожил крышу; ремонт обошёлся дороже, чем ожидали.\n"
        "Со следующей недели по четвергам приходят ученики, возьмите рабочую одежду.\n"
    ),
    "Ukrainian": (
        "Млин стоїть біля річки, і його господареві вже шістдесят три роки, та він ще жвавий.\n"
        "Щоосені селяни привозять сюди пшеницю, а борошно їде човнами до міста.\n"
        "Торішня повінь поламала колесо, і ремонт коштував більше, ніж гадали.\n"
        "Від наступного місяця щосереди приходитимуть діти зі школи, візьміть чоботи.\n"
    ),
    "Bulgarian": (
        "Мелницата стои край канала, а собственикът ѝ е на шестдесет и три години.\n".replace(
            "ѝ", "й"
        )
        + "Всяка есен селяните карат тук житото, а брашното се праща с лодки в града.\n"
        "Миналогодишното наводнение счупи колелото; поправката струваше доста пари.\n"
        "От следващия месец в сряда ще идват деца от училището, вземете си ботуши.\n"
    ),
    "Greek": (
        "Το εργαστήριο βρίσκεται δίπλα στο ποτάμι και ο ιδιοκτήτης του είναι γέρος πια.\n"
        "Κάθε άνοιξη φέρνουν εδώ τα ξύλα και οι έτοιμες βάρκες φεύγουν για τη θάλασσα.\n"
        "Η περσινή φωτιά κατέστρεψε τη στέγη και η επισκευή κόστισε πολλά χρήματα.\n"
        "Από την άλλη εβδομάδα θα έρχονται μαθητές, πάρτε μαζί σας παλιά ρούχα.\n"
    ),
    "Hebrew": (
        "בית המלאכה עומד ליד הנהר, ובעליו כבר בן שישים וחמש, אך עודו עליז.\n"
        "בכל אביב מביאים לכאן קרשים, והסירות המוכנות יורדות במורד הזרם אל הים.\n"
        "השריפה של השנה שעברה כילתה את הגג, והתיקון עלה יותר משציפו.\n"
        "משבוע הבא יבואו לכאן תלמידים בימי חמישי, נא להביא בגדי עבודה.\n"
    ),
    "Arabic": (
        "يقع المشغل قرب النهر وصاحبه شيخ في الخامسة والستين من العمر لكنه نشيط.\n"
        "في كل ربيع تجلب الألواح إلى هنا ثم ترسل القوارب الجاهزة مع التيار إلى البحر.\n"
        "أتى حريق العام الماضي على السقف وكان الإصلاح أغلى مما كان متوقعا.\n"
        "ابتداء من الأسبوع القادم يأتي التلاميذ كل خميس فأحضروا ثياب العمل.\n"
    ),
    "Thai": (
        "โรงสีตั้งอยู่ริมคลอง และเจ้าของอายุหกสิบสามปีแล้วแต่ยังแข็งแรงดี\n"
        "ทุกฤดูใบไม้ร่วงชาวนาจะนำข้าวมาที่นี่ แล้วส่งแป้งไปยังเมืองทางเรือ\n"
        "น้ำท่วมปีที่แล้วทำให้กังหันพัง ค่าซ่อมแพงกว่าที่คาดไว้มาก\n"
        "ตั้งแต่เดือนหน้าเด็กนักเรียนจะมาทุกวันพุธ กรุณานำรองเท้าบูตมาด้วย\n"
    ),
    "Simplified Chinese": (
        "作坊在河边，主人已经六十五岁了，但是身体很好。\n每年春天木板运到这里，"
        "做好的船顺着水流送到海边去。\n去年的火灾烧掉了屋顶，修理的费用比大家想的要多。\n"
        "从下个星期开始，学生每个星期四来参观，请带工作服。\n"
    ),
    "Traditional Chinese": (
        "作坊在河邊，主人已經六十五歲了，但是身體很好。\n每年春天木板運到這裡，"
        "做好的船順著水流送到海邊去。\n去年的火災燒掉了屋頂，修理的費用比大家想的要多。\n"
        "從下個星期開始，學生每個星期四來參觀，請帶工作服。\n"
    ),
    "Japanese": (
        "この工場は川のそばにあり、主人はもう六十五歳ですが、とても元気です。\n"
        "毎年春になると板がここに運ばれ、できた船は流れに乗って海へ送られます。\n"
        "去年の火事で屋根が焼け、修理には思ったよりお金がかかりました。\n"
        "来週から毎週木曜日に生徒が見学に来ますので、作業服を持ってきてください。\n"
    ),
    "Korean": (
        "이 공방은 강가에 있고 주인은 벌써 예순다섯 살이지만 아주 건강합니다.\n"
        "해마다 봄이 되면 널빤지를 이곳으로 가져오고 다 만든 배는 바다로 보냅니다.\n"
        "작년에 불이 나서 지붕이 탔고 수리비는 생각보다 많이 들었습니다.\n"
        "다음 주부터 목요일마다 학생들이 구경하러 오니 작업복을 준비해 주세요.\n"
    ),
}

_WESTERN = ("cp1252", "iso8859-15", "mac-roman", "cp850")
_CENTRAL = ("cp1250", "iso8859-2")
ENCODINGS: dict[str, tuple[str, ...]] = {
    "German": _WESTERN,
    "French": _WESTERN,
    "Spanish": _WESTERN,
    "Portuguese": _WESTERN,
    "Swedish": _WESTERN,
    "Danish": _WESTERN,
    "Polish": (*_CENTRAL, "cp852"),
    "Czech": (*_CENTRAL, "cp852"),
    "Hungarian": (*_CENTRAL, "cp852"),
    "Romanian": _CENTRAL,
    "Turkish": ("cp1254", "iso8859-9"),
    "Russian": ("cp1251", "koi8-r", "cp866", "iso8859-5", "mac-cyrillic"),
    "Ukrainian": ("cp1251", "koi8-u"),
    "Bulgarian": ("cp1251", "iso8859-5"),
    "Greek": ("cp1253", "iso8859-7"),
    "Hebrew": ("cp1255", "iso8859-8"),
    "Arabic": ("cp1256", "iso8859-6"),
    "Thai": ("cp874", "iso8859-11"),
    "Simplified Chinese": ("gbk", "gb18030", "hz"),
    "Traditional Chinese": ("big5", "cp950", "big5hkscs", "gb18030"),
    "Japanese": ("cp932", "euc_jp", "iso2022_jp"),
    "Korean": ("euc_kr", "cp949", "iso2022_kr"),
}


def pairs() -> list[tuple[str, str]]:
    """List each language with each of its encodings."""
    return [(language, codec) for language, codecs in ENCODINGS.items() for codec in codecs]
