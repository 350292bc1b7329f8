"""The sentences and plots of the stories: someone wants something, it goes wrong, someone helps.

Template language: walk.py. Words: words.py. Where a rule has several alternatives, they must begin
differently.
"""

from __future__ import annotations

from .words import words_of

PLOTS: dict[str, list[str]] = {
    "story": ["<opening> <likes>\n<oneday> <plot>\n<ending>"],
    "opening": [
        "Once upon a time there was a <trait> <kind:kind> named <name:hero>. {hero.He} lived "
        "<near> <place:home> with {hero.his} <relative:kin>.",
        "Once there was a <trait> <kind:kind> called <name:hero>, who lived in a <housing> <house> "
        "<near> <place:home> with {hero.his} <relative:kin>.",
        "Long ago, in a <housing> <house> <near> <place:home>, lived a <trait> <kind:kind> named "
        "<name:hero> and {hero.his} <trait> <relative:kin>.",
        "In a <colour> <house> <near> <place:home> there lived a <trait> <kind:kind> "
        "whose name was <name:hero>. {hero.His} <relative:kin> lived there too.",
        "There was once a <trait> and <trait> <kind:kind> named <name:hero>. {hero.His} home was a "
        "<house> <near> <place:home>, and {hero.his} <relative:kin> kept it warm.",
        "This is the story of <name:hero>, a <trait> <kind:kind> who lived <near> <place:home> "
        "with {hero.his} <relative:kin> and <number> <birds>.",
    ],
    "likes": [
        "{hero} loved to <hobby:hobby> and to <hobby!hobby>.",
        "Every <daytime> {hero.he} liked to <hobby:hobby> with {hero.his} {kin}.",
        "More than anything, {hero} liked to <hobby:hobby>, and {hero.he} always wore a <colour> "
        "<wear>.",
        "All the <birds> knew {hero.him}, because {hero.he} could <hobby:hobby> so well.",
        "{hero.He} could <hobby:hobby> all day, but {hero.he} did not like to <hobby!hobby>.",
        "When it was <weather>, {hero} would <hobby:hobby> and eat a <taste> <food>.",
    ],
    "wear": ["coat", "hat", "scarf", "ribbon", "vest", "cape", "belt", "shawl"],
    "oneday": [
        "One <weather:sky> <daytime:time>,",
        "On the first <weather:sky> <daytime:time> of the <season>,",
        "Then, on a <weather:sky> <daytime:time>,",
        "It was a <weather:sky> <daytime:time>, and",
    ],
    "season": ["spring", "summer", "winter", "year", "month", "week"],
    "plot": [
        "{hero} took {hero.his} <lost>",
        "{hero} found <found>",
        "{hero} wanted to build <build>",
        "{hero} heard a <sad_sound> <baby_home>",
        "{hero} wanted to learn how to <learn>",
        "{hero} went to the <storm>",
        "{hero} got a <seeds>",
        "{hero}'s {kin} was <sick>",
    ],
    # Meeting someone: remembered as `friend`, with `fkind`.
    "meet": [
        "Just then a <trait> <kind:fkind!kind> named <name:friend!hero> came by.",
        "Along came <name:friend!hero>, the <trait> <kind:fkind!kind> from the <place!home>.",
        "A <trait> <kind:fkind!kind> in a <colour> <wear> stopped. It was <name:friend!hero>.",
        "Soon <name:friend!hero> the <kind:fkind!kind> walked up with a <colour> <toy>.",
    ],
    "sights": [
        "On the way {hero.he} saw a <colour> <flower>, a <look> <bug> and <number> <birds>.",
        "There were <number> <birds> in the sky and a <bug> on every <flower>.",
        "{hero.He} waved at a <trait> <kind>, hopped over a <bug> and smelled a <colour> <flower>.",
        "A <look> <bug> sat on a <colour> <flower>, and <number> <birds> flew by.",
    ],
    "ohno": ["Oh no", "Oh dear", "Goodness", "Dear me", "Help", "Not again"],
    "sadly": [
        '"<ohno>!" <said> {hero}. {hero.He} felt <gloom>.',
        '{hero} felt <gloom>. "<ohno>!" {hero.he} <said>.',
        "{hero.He} sat down <spot> and felt very <gloom>.",
        "A <tear> tear ran down {hero.his} <body>.",
    ],
    "offer": [
        '"Do not worry," {friend} <said>. "I have a <look> <toy> and <number> <stuff>."',
        '"Let me help," {friend} said <adverb>.',
        '"Two can do more than one," said the {fkind} and <did>.',
        '{friend} <did>. "I have an idea," {friend.he} said <adverb>.',
        'The {fkind} looked at {hero} <adverb>. "We can do it together."',
    ],
    "thanks": [
        '"Thank you, {friend}!" <said> {hero}.',
        '{hero} hugged {friend} and <did>. "You are <trait> and <trait>!"',
        "{hero} gave {friend} a <taste> <food> to say thank you.",
        "They both <did> and danced until {friend}'s <body> hurt.",
    ],
    "tear": words_of("big, small, salty, warm, single, round"),
    "worked": words_of(
        "This time it worked!, And then it worked!, Hop! It worked!, All at once it worked!, "
        "It worked!, Hooray! It worked!, Before long it worked!, Oh! It worked!"
    ),
    "nothing": words_of(
        "Nothing came up., No leaf came up., Only a weed came up., The ground stayed bare., "
        "Not one leaf was seen., A crow dug there., It did not grow."
    ),
    "smell": words_of(
        "It smelled so good!, How good it smelled!, What luck!, Yum!, That was a surprise!, "
        "Nobody was near., There was no name on it."
    ),
    "slowly": words_of(
        "Little by little, Soon, After that, In the end, Before long, At last, By and by"
    ),
    "wentto": words_of(
        "They walked to, They ran to, On they went to, They looked in, Off they went to"
    ),
    "pointed": words_of("pointed up, thought hard, smiled, jumped, nodded, looked round, sniffed"),
    "hooray": words_of("Hooray, Yes, There it was, At last, It was true, What joy"),
    "lost": [
        "<colour:hue> <toy:toy> to the <place:place!home>. <sights> But when {hero.he} stopped to "
        "<hobby>, the {toy} was gone! <sadly> {hero.He} looked <spot:a> and <spot:b!a>, but it was "
        '<notthere>. <meet> "I lost my {hue} {toy}," said {hero}. <offer> They looked for '
        "<while>. At last {friend} saw something {hue} <spot!a,b>. <hooray>, the {toy}! <thanks>"
    ],
    "notthere": ["not there", "nowhere", "too dark to see", "no use"],
    "found": [
        "a <taste> <food:food> <spot>. <smell> {hero.He} wanted to eat it all alone, "
        'next to the <place!home>. <meet> "I am so hungry," {friend} said <adverb>. "I have not '
        'eaten since <meal>." {hero} thought for <while>. <sharing> "It tastes better with a '
        'friend," {hero.he} <said>. {friend} <did>. Then they played <game> and watched <number> '
        "<birds>.",
        "someone's <colour:hue> <toy:toy> <spot>. It was not {hero.his} {toy}, but it was very "
        "<look>. {hero} carried it past the <place:place!home> and asked <number> <birds>. <meet> "
        '"<ohno>! That is my {toy}," {friend} <said>. "I lost it <spot>." For a moment {hero} felt '
        "<gloom>. Then {hero.he} gave it back <adverb>. {friend} <did>. <thanks_back>",
    ],
    "meal": ["breakfast", "lunch", "supper", "yesterday", "Monday", "Sunday"],
    "sharing": [
        "Then {hero.he} cut the {food} in <number> pieces and gave {friend} most of them.",
        "{hero.He} broke the {food} in half and gave {friend} the big half.",
        'In the end {hero.he} said, "Half of this {food} is yours."',
        "{hero.His} <body> itched. So {hero.he} put the {food} between them and shared it.",
    ],
    "thanks_back": [
        '"You can play with it too," said the {fkind}, and they played <game>.',
        "To say thank you, {friend} gave {hero} a <taste> <food>.",
        '"Let us <hobby> together," {friend.he} said <adverb>.',
        "They took turns with the {toy} until <number> stars came out.",
    ],
    "build": [
        "a <look> <project:thing> <near> <place:place!home>. {hero.He} got <number> <stuff:m1> and "
        "some <stuff!m1>, and worked for <while>. But <trouble:t1>! <sadly> {hero.He} tried again, "
        "and this time <trouble!t1>. <meet> <offer> {friend} brought <number> <stuff:m2!m1> and "
        "held the {thing} <adverb>. They worked until the <birds> went to sleep. Now the {thing} "
        "was <look>, <colour> and strong. <thanks>"
    ],
    "sad_sound": ["sad", "tiny", "strange", "soft", "lonely", "funny", "faint"],
    "baby_home": [
        "sound <spot:a>. It was a <colour> baby <baby:baby>! <babytalk> {hero.He} picked up the "
        "{baby} <adverb> and wrapped it in a <colour> <toy_soft>. <wentto> the "
        "<place:p1!home>, but nobody was there. <wentto> the <place:p2!home,p1>, but found "
        'only <number> <birds>. <meet> <offer> {friend} <pointed>. "I saw a <gloom> '
        'mother {baby} <near> <place!p1,p2>." '
        "They ran there <adverb>. The mother {baby} <did> and gave them a <taste> <food>. <thanks>"
    ],
    "babytalk": [
        '"I want my mother," it <said>.',
        '"I am cold and <gloom>," it said <adverb>.',
        'It had hurt its <body>. "<ohno>," it <said>.',
        "It looked <gloom> and shook its <body>.",
    ],
    "toy_soft": ["scarf", "blanket", "leaf", "sock", "towel", "mitten", "hat"],
    "learn": [
        "<skill:skill>. {hero.He} went to the <place:place!home> and tried. <fall> {hero.He} tried "
        "<times> times, but {hero.he} could not do it. <sadly> <meet> "
        '"It took me <times> days to learn," {friend} said <adverb>. "Try once more, and keep your '
        '<body> up." {hero} took a deep breath and went <adverb>. <worked> {hero.He} '
        "could <skill_done>. <thanks>"
    ],
    "skill_done": ["really {skill}", "{skill} all alone", "at last {skill}"],
    "fall": [
        "{hero.He} fell and bumped {hero.his} <body>.",
        "But {hero.he} landed <spot> with a <look> bump.",
        "High up, <number> <birds> laughed at {hero.him}.",
        "Bump! Down {hero.he} went on {hero.his} <body>.",
    ],
    "storm": [
        "<place:place!home> to <hobby>. <sights> {hero} had always been afraid of <fear:fear>. "
        "Suddenly the sky turned <colour>. {hero.He} hid <spot> and shook from <body:b1> to "
        '<body!b1>. <meet> "I am afraid of {fear}," {hero} said <adverb>. "So am I, sometimes," '
        'said {friend}. "When I am, I <hobby> and think of a <taste> <food>." They held a <colour> '
        "<toy> and played <game> for <while>. <slowly> {hero} felt <mood>.",
    ],
    "seeds": [
        "<look> <seed:seed> seed from {hero.his} {kin}. {hero.He} planted it <near> "
        "<place:place!home> and waited <number> days. <nothing> <sadly> <meet> <seedtalk> "
        "So {hero} watered it every <daytime> and sang to it <adverb>. After <number> weeks a "
        "<colour> leaf came out, then <number> more. A <look> <bug> came to live there. By the end "
        "of the <season> the {seed} plant was taller than {friend}! They made a <taste> <food> and "
        "ate it with <number> <birds>.",
    ],
    "seedtalk": [
        '"A {seed} needs water and a <weather> <daytime>," {friend} said <adverb>.',
        '"Be patient," said the {fkind} and <did>. "My {seed} took <number> weeks."',
        '{friend} looked at the ground <adverb>. "It is only asleep," {friend.he} <said>.',
    ],
    "sick": [
        "ill in bed with a <colour> <body> and felt <gloom>. {hero} wanted to bring a <taste> "
        "<food:food>, but there was none at home. {hero.He} walked past the <place:p1!home> and "
        'over the <place:p2!home,p1>. <sights> <meet> "I will give you a {food} if you <hobby> '
        'with me," {friend} said <adverb>. So they did, for <while>. Then {hero} ran home <adverb> '
        "with the {food} and <number> <colour> flowers. {hero}'s {kin} <did> and felt <mood>."
    ],
    "ending": [
        "From that {time} on, {hero} and {friend} were <friends>. <lesson>",
        "That night {hero} told {hero.his} {kin} about {friend}. <lesson>",
        "{hero} went home with a <mood> heart and a <look> <toy>. <lesson>",
        "When the <number> stars came out, {friend} walked {hero} home. <lesson>",
        "And {hero.he} never forgot that {sky} {time} with {friend}. <lesson>",
    ],
    "lesson": [
        "{hero.He} had learned to be <trait>.",
        "Now they meet <near> <place> every <daytime> to <hobby>.",
        '"A friend is better than a <look> <toy>," {hero.he} <said>.',
        "They all felt <mood>. The end.",
        "Then {hero.he} ate a <food> and fell asleep <adverb>.",
    ],
}
