"""Words and phrases of the languages of training, written for this project; entries are parted by bars.

S subjects, V verbs, O objects, A adverbials, T times, P openings, Q qualities, and three connectives.
"""

WORDS = {
    "en-us": {
        "S": (
            "the baker|my brother|the old farmer|our neighbour|a young painter|the pilot|the happy puppy|"
            "my mother|the museum guide|a brave sailor|the weather man|our teacher|the blue bird|"
            "a famous poet|the village doctor|my best friend|the bus driver|a quiet monkey|the chef|"
            "the robot|every visitor|the small boy|a wise woman|the mayor|the piano player|the whole team|"
            "an angry goose|the postman|the queen|your uncle|a lazy panther|the engineer|the gardener|"
            "a patient judge|the violin maker|the swimmer|the football club|a tired shepherd|the shopkeeper|"
            "the new pupil|a strange merchant|the choir"
        ),
        "V": (
            "brought|found|painted|carried|watched|bought|forgot|opened|lost|moved|praised|borrowed|cleaned|"
            "measured|followed|shared|wrapped|noticed|remembered|promised|repaired|sold|drew|wanted|pushed|"
            "kept|gave away|picked up|showed me|asked for|talked about|looked after|dreamed of|wrote about|"
            "laughed at"
        ),
        "O": (
            "a bowl of soup|the big map|a purple umbrella|my favourite book|the warm bread|a pair of boots|"
            "the open window|an apple pie|the broken lamp|five peppers|a bottle of milk|the empty box|"
            "a wooden boat|the first page|two puppies|a paper plane|the garden fence|some mushrooms|"
            "a cup of coffee|the golden watch|a bag of plums|the moon|a very long letter|the music|"
            "a marble statue|the missing key|a pile of newspapers|the yellow bicycle|a heavy pumpkin|"
            "the photograph|some good advice|the whole orchestra|a new pair of gloves|the river bank|"
            "an old piano|the morning paper"
        ),
        "A": (
            "by the river|in the middle of the room|above the bakery|before the storm|with a warm smile|"
            "behind the farm|on top of the mountain|without a map|under the bridge|for my family|"
            "in the living room|with both hands|near the museum|over the fence|from the market|"
            "at the bus stop|in complete silence|for no reason at all|beside the apple tree|"
            "with much patience"
        ),
        "T": (
            "this morning|last summer|every evening|at noon|on Monday|in November|after breakfast|"
            "two years ago|before midnight|once upon a time|in the afternoon|right now|all week|"
            "most of the time|yesterday|during the break"
        ),
        "P": (
            "well|believe me|my dear friend|of course|to be fair|please listen|you know|by the way|oh boy|"
            "as far as I know|maybe|thank you|above all|I am afraid|hello everybody|good morning|pardon me|"
            "wow"
        ),
        "Q": (
            "beautiful|very happy|much too warm|brave|wonderful|a bit slow|famous|impossible|almost empty|"
            "quiet|smooth and soft|funny|fabulous|too far away|worried|proud of it|comfortable|"
            "above average|completely mad|fast asleep|out of office|never late"
        ),
        "and": "and",
        "but": "but",
        "is": "was",
    },
    "de": {
        "S": (
            "der Bäcker|meine Mutter|der alte Bauer|unsere Nachbarin|ein junger Maler|die Pilotin|"
            "das kleine Pferd|mein Bruder|der Bürgermeister|eine mutige Frau|das Mädchen|unser Lehrer|"
            "der blaue Vogel|ein berühmter Dichter|die Ärztin|mein bester Freund|der Busfahrer|"
            "ein leiser Affe|die Köchin|der Roboter|jeder Besucher|die Königin|der Postbote|"
            "ein müder Schäfer|die ganze Familie|der Gärtner|die Mannschaft|ein böser Wolf|der Förster|"
            "die Verkäuferin|der neue Schüler|das Orchester"
        ),
        "V": (
            "brachte|fand|malte|suchte|bewunderte|kaufte|vergaß|öffnete|verlor|bewegte|lobte|holte|putzte|"
            "beobachtete|verfolgte|teilte|bemerkte|verkaufte|wollte|schob|behielt|zeigte mir|besuchte|"
            "probierte|verpackte|übermalte|empfahl|bemalte"
        ),
        "O": (
            "einen Teller Suppe|die große Karte|einen roten Apfel|mein liebstes Buch|das warme Brot|"
            "ein Paar Stiefel|das offene Fenster|einen Pflaumenkuchen|die kaputte Lampe|fünf Pfirsiche|"
            "eine Flasche Milch|das leere Boot|die erste Seite|zwei Hunde|ein Papierflugzeug|den Gartenzaun|"
            "ein paar Pilze|eine Tasse Kaffee|die goldene Uhr|den Mond|einen langen Brief|die Musik|"
            "ein Bild vom Hafen|den schönen Baum|das gelbe Fahrrad|einen Kürbis|das Foto|den ganzen Chor|"
            "neue Handschuhe|ein altes Klavier"
        ),
        "A": (
            "am Fluss|mitten im Zimmer|über der Bäckerei|vor dem Sturm|mit einem Lächeln|"
            "hinter dem Bauernhof|oben auf dem Berg|ohne Plan|unter der Brücke|für meine Familie|"
            "im Wohnzimmer|mit beiden Händen|beim Museum|auf dem Markt|an der Haltestelle|ganz ohne Grund|"
            "neben dem Apfelbaum|mit viel Geduld"
        ),
        "T": (
            "heute Morgen|im letzten Sommer|jeden Abend|am Mittag|am Montag|im November|nach dem Frühstück|"
            "vor zwei Jahren|um Mitternacht|am Nachmittag|gerade eben|die ganze Woche|gestern|in der Pause|"
            "bald"
        ),
        "P": (
            "also|glaub mir|mein lieber Freund|aber ja|ehrlich gesagt|bitte hör zu|weißt du|übrigens|"
            "oh wie schön|soviel ich weiß|vielleicht|vielen Dank|vor allem|guten Morgen|hallo zusammen|"
            "na gut"
        ),
        "Q": (
            "wunderbar|sehr froh|viel zu warm|mutig|müde|ein bisschen langsam|berühmt|unmöglich|fast leer|"
            "leise|weich und rund|komisch|fabelhaft|zu weit weg|besorgt|stolz darauf|bequem|ganz verrückt|"
            "immer pünktlich|nie böse"
        ),
        "and": "und",
        "but": "aber",
        "is": "war",
    },
    "es": {
        "S": (
            "el panadero|mi madre|el viejo granjero|nuestra vecina|un joven pintor|la piloto|"
            "el pequeño perro|mi hermano|el alcalde|una mujer valiente|la niña|nuestro maestro|"
            "el pájaro azul|un poeta famoso|la médica|mi mejor amigo|el conductor|un mono tranquilo|"
            "la cocinera|el robot|cada visitante|la reina|el cartero|un pastor cansado|toda la familia|"
            "el jardinero|el equipo|un lobo malo|la vendedora|el nuevo alumno|la orquesta|mi abuela"
        ),
        "V": (
            "trajo|encontró|pintó|buscaba|admiraba|compró|olvidó|abrió|perdió|movió|preparó|pidió|limpió|"
            "miraba|siguió|compartió|vendió|quería|empujó|guardó|me mostró|visitó|probó|envolvió|recomendó|"
            "bebió"
        ),
        "O": (
            "un plato de sopa|el mapa grande|una manzana roja|mi libro favorito|el pan caliente|"
            "un par de botas|la ventana abierta|un pastel de ciruela|la lámpara rota|cinco pimientos|"
            "una botella de leche|el barco vacío|la primera página|dos perros|un avión de papel|"
            "la puerta del jardín|unas uvas|una taza de café|el reloj de oro|la luna|una carta muy larga|"
            "la música|una foto del puerto|el árbol bonito|la bicicleta amarilla|una calabaza|"
            "el bolso de mi tía|los guantes nuevos|un piano viejo|el periódico"
        ),
        "A": (
            "junto al río|en medio de la sala|encima de la panadería|antes de la tormenta|con una sonrisa|"
            "detrás de la granja|en la montaña|sin mapa|debajo del puente|para mi familia|con ambas manos|"
            "cerca del museo|en el mercado|en la parada|sin motivo|con mucha paciencia"
        ),
        "T": (
            "esta mañana|el verano pasado|cada tarde|al mediodía|el lunes|en noviembre|después del desayuno|"
            "hace dos años|por la noche|ahora mismo|toda la semana|ayer|durante la pausa|muy pronto"
        ),
        "P": (
            "bueno|créeme|mi querido amigo|por supuesto|la verdad|por favor|ya sabes|por cierto|qué bonito|"
            "que yo sepa|quizás|muchas gracias|sobre todo|buenos días|hola a todos"
        ),
        "Q": (
            "maravilloso|muy feliz|demasiado caliente|valiente|cansado|un poco lento|famoso|imposible|"
            "casi vacío|suave y blando|cómico|fabuloso|lejos de aquí|preocupado|cómodo|loco|puntual|"
            "muy amable"
        ),
        "and": "y",
        "but": "pero",
        "is": "era",
    },
    "it": {
        "S": (
            "il fornaio|mia madre|il vecchio contadino|la nostra vicina|un giovane pittore|la pilota|"
            "il piccolo cane|mio fratello|il sindaco|una donna coraggiosa|la bambina|il nostro maestro|"
            "il pappagallo blu|un poeta famoso|la dottoressa|il mio amico|il postino|una scimmia tranquilla|"
            "la cuoca|il robot|ogni ospite|la regina|un pastore stanco|tutta la famiglia|il giardiniere|"
            "la squadra|un lupo cattivo|il nuovo alunno|l'orchestra|mia nonna"
        ),
        "V": (
            "portava|trovò|dipinse|cercava|ammirava|comprò|dimenticò|aprì|perse|mosse|preparò|chiese|puliva|"
            "guardava|seguiva|vendeva|voleva|spinse|mi mostrò|visitò|assaggiò|bevve|raccontava|fermò"
        ),
        "O": (
            "un piatto di zuppa|la grande mappa|una mela rossa|il mio libro preferito|il pane caldo|"
            "un paio di stivali|la finestra aperta|una torta di prugne|la lampada rotta|cinque peperoni|"
            "una bottiglia di vino|la barca vuota|la prima pagina|due cani|un aereo di carta|"
            "la porta del giardino|un po' di uva|una tazza di caffè|l'orologio d'oro|la luna|"
            "una lettera molto lunga|la musica|una foto del porto|il bell'albero|la bicicletta gialla|"
            "una zucca|i guanti nuovi|un vecchio pianoforte"
        ),
        "A": (
            "vicino al fiume|in mezzo alla stanza|sopra il forno|prima della tempesta|con un sorriso|"
            "dietro la fattoria|in cima al monte|senza mappa|sotto il ponte|per la mia famiglia|con le mani|"
            "accanto al museo|al mercato|alla fermata|senza motivo|con molta pazienza"
        ),
        "T": (
            "stamattina|l'estate scorsa|ogni sera|a mezzogiorno|lunedì|in novembre|dopo la colazione|"
            "due anni fa|di notte|proprio adesso|tutta la settimana|ieri|durante la pausa|presto"
        ),
        "P": (
            "bene|credimi|mio caro amico|certo|davvero|per favore|lo sai|a proposito|che bello|forse|"
            "mille grazie|soprattutto|buongiorno|ciao a tutti|ma dai"
        ),
        "Q": (
            "meraviglioso|molto felice|troppo caldo|coraggioso|stanco|un po' lento|famoso|impossibile|"
            "quasi vuoto|morbido|buffo|favoloso|troppo lontano|preoccupato|comodo|pazzo|puntuale|gentile"
        ),
        "and": "e",
        "but": "ma",
        "is": "era",
    },
    "pt": {
        "S": (
            "o padeiro|minha mãe|o velho fazendeiro|nossa vizinha|um jovem pintor|a pilota|o pequeno cão|"
            "meu irmão|o prefeito|uma mulher corajosa|a menina|nosso professor|o pássaro azul|"
            "um poeta famoso|a médica|meu melhor amigo|o motorista|um macaco calmo|a cozinheira|o robô|"
            "cada visitante|a rainha|o carteiro|um pastor cansado|toda a família|o jardineiro|a equipe|"
            "um lobo mau|o novo aluno|minha avó"
        ),
        "V": (
            "trouxe|encontrou|pintou|procurava|admirava|comprou|esqueceu|abriu|perdeu|moveu|preparou|pediu|"
            "limpou|olhava|seguiu|vendeu|queria|empurrou|guardou|mostrou|visitou|provou|bebeu|levou"
        ),
        "O": (
            "um prato de sopa|o mapa grande|uma maçã vermelha|meu livro favorito|o pão quente|"
            "um par de botas|a janela aberta|um bolo de ameixa|a lâmpada quebrada|cinco pimentas|"
            "uma garrafa de leite|o barco vazio|a primeira página|dois cães|um avião de papel|"
            "a porta do jardim|umas uvas|uma xícara de café|o relógio de ouro|a lua|uma carta muito longa|"
            "a música|uma foto do porto|a bicicleta amarela|uma abóbora|as luvas novas|um velho piano|"
            "o jornal"
        ),
        "A": (
            "perto do rio|no meio da sala|em cima da padaria|antes da chuva|com um sorriso|atrás da fazenda|"
            "na montanha|sem mapa|debaixo da ponte|para minha família|com as mãos|ao lado do museu|"
            "no mercado|sem motivo|com muita paciência"
        ),
        "T": (
            "esta manhã|no verão passado|cada tarde|ao meio-dia|na segunda|em novembro|depois do café|"
            "há dois anos|à noite|agora mesmo|toda a semana|ontem|durante a pausa|em breve"
        ),
        "P": (
            "bem|acredite|meu caro amigo|claro|na verdade|por favor|sabe|aliás|que bonito|talvez|"
            "muito obrigado|sobretudo|bom dia|olá a todos|pois é"
        ),
        "Q": (
            "maravilhoso|muito feliz|quente demais|corajoso|cansado|um pouco lento|famoso|impossível|"
            "quase vazio|macio|engraçado|fabuloso|longe daqui|preocupado|confortável|louco|pontual|amável"
        ),
        "and": "e",
        "but": "mas",
        "is": "era",
    },
    "fr": {
        "S": (
            "le boulanger|ma mère|le vieux fermier|notre voisine|un jeune peintre|la pilote|le petit chien|"
            "mon frère|le maire|une femme brave|la fille|notre maître|l'oiseau bleu|un poète connu|"
            "la médecin|mon meilleur ami|le chauffeur|un singe calme|la cuisinière|le robot|chaque visiteur|"
            "la reine|le facteur|un berger fatigué|toute la famille|le jardinier|l'équipe|un loup méchant|"
            "le nouvel élève|ma grand-mère"
        ),
        "V": (
            "apporta|trouva|peignait|cherchait|admirait|acheta|oublia|ouvrait|perdait|bougeait|prépara|"
            "demanda|lavait|regardait|suivait|vendait|voulait|poussa|gardait|montra|visita|goûta|buvait|"
            "emporta"
        ),
        "O": (
            "une assiette de soupe|la grande carte|une pomme rouge|mon livre préféré|le pain chaud|"
            "une paire de bottes|la fenêtre ouverte|un gâteau aux prunes|la lampe cassée|cinq poivrons|"
            "une bouteille de lait|le bateau vide|la première page|deux chiens|un avion en papier|"
            "la porte du jardin|une tasse de café|la montre en or|la lune|une longue lettre|la musique|"
            "une photo du port|le bel arbre|le vélo jaune|un gros potiron|les gants neufs|un vieux piano|"
            "le journal"
        ),
        "A": (
            "près du fleuve|au milieu de la salle|au-dessus du four|avant la pluie|avec un sourire|"
            "derrière la ferme|sur la montagne|sans carte|sous le pont|pour ma famille|à deux mains|"
            "à côté du musée|au marché|sans raison|avec patience"
        ),
        "T": (
            "ce matin|l'été dernier|chaque soir|à midi|lundi|en novembre|après le repas|il y a deux ans|"
            "la nuit|maintenant|toute la semaine|hier|pendant la pause|bientôt"
        ),
        "P": (
            "bon|crois-moi|mon cher ami|bien sûr|en vérité|s'il te plaît|tu sais|au fait|que c'est beau|"
            "peut-être|merci beaucoup|surtout|bonjour|salut à tous"
        ),
        "Q": (
            "merveilleux|très heureux|trop chaud|brave|fatigué|un peu lent|fameux|impossible|presque vide|"
            "doux|drôle|fabuleux|trop loin|inquiet|confortable|fou|aimable|calme"
        ),
        "and": "et",
        "but": "mais",
        "is": "était",
    },
    "nl": {
        "S": (
            "de bakker|mijn moeder|de oude boer|onze buurvrouw|een jonge schilder|de piloot|"
            "het kleine paard|mijn broer|de burgemeester|een dappere vrouw|het meisje|onze leraar|"
            "de blauwe vogel|een bekende dichter|de dokter|mijn beste vriend|de chauffeur|een stille aap|"
            "de kok|de robot|elke bezoeker|de koningin|de postbode|een moe schaap|de hele familie|"
            "de tuinman|de ploeg|een boze wolf|de nieuwe leerling|mijn oma"
        ),
        "V": (
            "bracht|vond|schilderde|zocht|bewonderde|kocht|vergat|opende|verloor|bewoog|maakte|vroeg|"
            "poetste|bekeek|volgde|verkocht|wilde|duwde|bewaarde|bezocht|proefde|dronk|pakte|kreeg"
        ),
        "O": (
            "een bord soep|de grote kaart|een rode appel|mijn mooiste boek|het warme brood|een paar laarzen|"
            "het open raam|een pruimentaart|de kapotte lamp|vijf paprika's|een fles melk|de lege boot|"
            "de eerste bladzijde|twee honden|een papieren vliegtuig|de tuinpoort|een kopje koffie|"
            "het gouden horloge|de maan|een lange brief|de muziek|een foto van de haven|de mooie boom|"
            "de gele fiets|een pompoen|nieuwe handschoenen|een oude piano|de krant"
        ),
        "A": (
            "bij de rivier|midden in de kamer|boven de bakkerij|voor de storm|met een glimlach|"
            "achter de boerderij|op de berg|zonder kaart|onder de brug|voor mijn familie|met beide handen|"
            "naast het museum|op de markt|zonder reden|met veel geduld"
        ),
        "T": (
            "vanmorgen|vorige zomer|elke avond|om twaalf uur|op maandag|in november|na het ontbijt|"
            "twee jaar geleden|om middernacht|vanmiddag|nu meteen|de hele week|gisteren|in de pauze|"
            "binnenkort"
        ),
        "P": (
            "nou|geloof me|mijn beste vriend|maar ja|eerlijk gezegd|luister eens|weet je|trouwens|wat mooi|"
            "misschien|dank je wel|vooral|goedemorgen|hallo allemaal"
        ),
        "Q": (
            "wonderlijk|heel blij|veel te warm|dapper|moe|een beetje traag|beroemd|onmogelijk|bijna leeg|"
            "zacht en rond|grappig|fantastisch|te ver weg|bezorgd|gemakkelijk|helemaal gek|altijd op tijd|"
            "rustig"
        ),
        "and": "en",
        "but": "maar",
        "is": "was",
    },
}
